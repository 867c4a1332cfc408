"""The words of the stories: what can be chosen, and what of it is remembered later on."""

GIRLS = "Mia Anna Lily Nora Ella Ruth Zoe Emma Ivy Rosa Clara Jane".split()
BOYS = "Tom Ben Max Leo Sam Jack Hugo Paul Finn Oscar Peter Luke".split()
PETS = "Rex Dot Coco Pip Milo Luna Bella Toby Ginger Shadow".split()
ANIMALS = "dog cat rabbit duck goat horse pony hen mouse parrot turtle hamster".split()
COLOURS = "red blue green yellow white black pink purple gray brown".split()
THINGS = "hat kite ball bag coat boat drum scarf cup box lamp bell blanket basket".split()
FOODS = "apples bread soup cake cheese pears honey nuts plums rice carrots cookies".split()
PLACES = "river forest market beach park hill lake garden farm library castle bridge".split()
HOMES = (
    "in a small house", "on a quiet street", "near the old mill", "by the sea", "at the edge of the town",
    "in a tall tower", "next to the school", "above a little shop",
)
JOBS = "baker farmer teacher painter doctor sailor singer gardener driver cook".split()
TRAITS = "kind shy brave clever funny quiet proud lazy careful cheerful patient curious".split()
FEELINGS = "happy sad tired angry scared hungry lonely excited bored worried".split()
WEATHER = "sunny rainy windy cloudy snowy foggy cold warm".split()
TIMES = ("morning", "afternoon", "evening", "day", "Monday", "Sunday", "weekend", "holiday")
WENT = ("walked", "ran", "went", "rode", "hurried", "wandered")
PARTS = "leg tail ear foot nose back".split()
GIFTS = "flower shell book letter ring coin stone song picture story".split()
ACTIONS = ("laughed", "smiled", "danced", "clapped", "jumped", "nodded", "sang", "waved")

OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("fast", "slow"), ("happy", "sad"), ("old", "young"), ("high", "low"),
    ("light", "dark"), ("open", "closed"), ("full", "empty"), ("rich", "poor"), ("wet", "dry"), ("hard", "soft"),
)
