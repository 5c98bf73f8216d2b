"""The closed vocabulary of the demo tasks.

Every word here becomes one token of the demo tokenizer, so the lists stay short on purpose.
"""

ITEMS = (
    *("pens", "cups", "lamps", "desks", "chairs", "books", "bags", "maps", "pots", "rugs"),
    *("jars", "nails", "bolts", "tiles", "ropes", "boxes", "forks", "plates", "coats", "hats"),
    *("shoes", "socks", "cables", "clocks"),
)
FIRST_NAMES = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas"),
    *("Kira", "Leo", "Mia", "Nora", "Oscar", "Paula", "Rosa", "Simon", "Tara", "Victor"),
)
SURNAMES = (
    *("Berg", "Costa", "Diaz", "Evans", "Fischer", "Gruber", "Hansen", "Ito", "Jensen"),
    *("Klein", "Lopez", "Moser", "Novak", "Olsen", "Patel", "Weber"),
)
CITIES = (
    *("Vienna", "Berlin", "Paris", "Rome", "Oslo", "Madrid", "Lisbon", "Prague", "Dublin"),
    *("Athens", "Zurich", "Graz", "Linz", "Milan", "Lyon", "Turin", "Porto", "Ghent"),
    *("Bergen", "Basel"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
STATUSES = ("open", "paid", "late")
WEATHER = ("sunny", "rainy", "cloudy", "windy")
TEAMS = ("billing", "shipping", "technical", "account", "sales")
