"""How the embedded demo model is made: tokenizer, data, model, optimizer, loop, export, check.

Read it in that order. `scripts/train_demo.py` is the entry. Only this package needs torch.
"""
