"""Strand 1: short stories in simple English about people with things, pets and habits.

A hero, a friend, a coloured thing, a pet with a name, a food, a place and a trait are
introduced once and must be remembered: where the text comes back to one of them, its
characters carry the span `recall:<attribute>`. Stories of the test split are about
(hero, place, thing) triples that no training story uses."""
import random
import re

from demo.document import Document, fill
from demo.lexicon import (
    ACTIONS, ANIMALS, BOYS, COLOURS, FEELINGS, FOODS, GIFTS, GIRLS, HOMES, JOBS, PARTS, PETS, PLACES, THINGS,
    TIMES, TRAITS, WEATHER, WENT,
)

_INTRODUCTIONS = (
    "{hero} was a {trait} {kind} who lived {home}.",
    "Once there was a {trait} {kind} named {hero}. {Hero_sub} lived {home}.",
    "There was a {kind} called {hero} who lived {home}. Everyone said that {hero} was {trait}.",
    "{Home_start} lived a {kind} named {hero}. {Hero_sub} was very {trait}.",
)
_BELONGINGS = (
    "{Hero_sub} had a {colour} {thing} and a {animal} called {pet}.",
    "{hero} loved {hero_poss} {animal} {pet} and {hero_poss} {colour} {thing}.",
    "{Hero_poss} best friend was a {animal} named {pet}, and {hero_poss} favorite thing was a {colour} {thing}.",
    "{Hero_poss} {thing} was {colour}. {Hero_poss} {animal} was named {pet}.",
)
_OUTINGS = (
    "One {weather} {time}, {hero} {went} to the {place} with {pet|recall:pet}.",
    "One {time} it was {weather}, so {hero} {went} to the {place}.",
    "On a {weather} {time}, {hero} and {pet|recall:pet} {went} to the {place} to look for {food}.",
    "\"Let us go to the {place},\" said {hero} one {weather} {time}. They {went} there with the {colour|recall:colour} {thing|recall:thing}.",
)
_MEETINGS = (
    "There {hero_sub} met {friend}, a {friend_trait} {job} who loved {friend_food}.",
    "At the {place|recall:place} {hero_sub} saw {friend} the {job}. {Friend_sub} was {feeling} and wanted some {friend_food}.",
    "A {job} named {friend} sat there and ate {friend_food}. {Friend_sub} looked {feeling}.",
    "Near the {place|recall:place} stood {friend}, the {job}. {Friend_sub} had a bag full of {friend_food}.",
)
_LOSSES = (                                      # the thing is gone: it can be found again
    "Then the wind took the {colour|recall:colour} {thing|recall:thing} away. \"Oh no, my {thing|recall:thing}!\" cried {hero|recall:hero}.",
    "Suddenly {pet|recall:pet} ran away and took the {thing|recall:thing}. {hero|recall:hero} looked everywhere but could not find the {animal|recall:animal}.",
)
_TROUBLES = (
    "But {pet|recall:pet} the {animal|recall:animal} had hurt its {part} and could not walk. {hero|recall:hero} was very sad.",
    "\"What color is your {thing|recall:thing}?\" asked {friend|recall:friend}. \"It is {colour|recall:colour},\" said {hero|recall:hero}.",
    "\"Who are you?\" asked {friend|recall:friend}. \"I am {hero|recall:hero} and this is {pet|recall:pet}, my {animal|recall:animal},\" said the {kind|recall:kind}.",
    "{friend|recall:friend} had lost a {gift} in the {place|recall:place}. \"Please help me,\" said the {job|recall:job}.",
)
_DEEDS = (
    "{hero|recall:hero} gave {friend|recall:friend} some {food} and {friend|recall:friend} gave {hero_obj} a {gift}.",
    "They looked for a long time. At last {pet|recall:pet} found a {gift} near the {thing2} and {friend|recall:friend} {action}.",
    "The {job|recall:job} helped {hero|recall:hero} and they shared the {friend_food|recall:food}. {friend|recall:friend} {action}.",
    "\"Do not be {feeling2},\" said {friend|recall:friend}. The {job|recall:job} made a {gift} for {hero|recall:hero} and they {action}.",
)
_RETURNS = (
    "{friend|recall:friend} found the {thing|recall:thing} under a tree and gave it back. \"Thank you,\" said {hero|recall:hero}, and {hero_sub} {action}.",
    "\"Here it is!\" said the {job|recall:job}. The {thing|recall:thing} was in a tree. {hero|recall:hero} {action} and gave {friend|recall:friend} some {food}.",
)
_ENDINGS = (
    "In the evening {hero|recall:hero} went home with {hero_poss} {colour|recall:colour} {thing|recall:thing}.",
    "{hero|recall:hero} and {friend|recall:friend} became friends, and {pet|recall:pet} the {animal|recall:animal} was happy.",
    "From that day on the {trait|recall:trait} {kind|recall:kind} and the {job|recall:job} met at the {place|recall:place} every {time2}.",
    "At night {hero|recall:hero} told {pet|recall:pet} about {friend|recall:friend} the {job|recall:job} and the {gift2}.",
    "{friend|recall:friend} never forgot the {colour|recall:colour} {thing|recall:thing} and the {animal|recall:animal} named {pet|recall:pet}.",
)
_PLOTS = ((_TROUBLES, _DEEDS), (_LOSSES, _RETURNS))
_PEOPLE = (*GIRLS, *BOYS)
_TOKEN = re.compile(r"\w+|[^\w\s]+")
LONGEST = 120                                            # tokens: a story fits into one context
_PRONOUNS = {True: ("she", "her", "her"), False: ("he", "his", "him")}


def is_heldout(hero: int, place: int, thing: int) -> bool:
    """Whether the triple of indices belongs to the test split (one in eleven)."""
    return (3 * hero + 5 * place + 2 * thing) % 11 == 0


def draw(rng: random.Random, split: str) -> Document:
    while True:
        document = _tell(rng, split)
        if len(_TOKEN.findall(document.text)) <= LONGEST:
            return document


def _tell(rng: random.Random, split: str) -> Document:
    while True:
        triple = rng.randrange(len(_PEOPLE)), rng.randrange(len(PLACES)), rng.randrange(len(THINGS))
        if is_heldout(*triple) == (split == "test"):
            break
    hero, place, thing = _PEOPLE[triple[0]], PLACES[triple[1]], THINGS[triple[2]]
    girl = triple[0] < len(GIRLS)
    friend = rng.choice(_PEOPLE)
    while friend == hero:
        friend = rng.choice(_PEOPLE)
    sub, poss, obj = _PRONOUNS[girl]
    animal, home = rng.choice(ANIMALS), rng.choice(HOMES)
    fields = {
        "hero": hero, "place": place, "thing": thing, "friend": friend, "kind": "girl" if girl else "boy",
        "hero_sub": sub, "hero_poss": poss, "hero_obj": obj, "Hero_sub": sub.capitalize(), "Hero_poss": poss.capitalize(),
        "Friend_sub": "She" if friend in GIRLS else "He",
        "colour": rng.choice(COLOURS), "trait": rng.choice(TRAITS), "friend_trait": rng.choice(TRAITS),
        "animal": animal, "pet": rng.choice(PETS), "job": rng.choice(JOBS),
        "home": home, "Home_start": home[0].upper() + home[1:], "weather": rng.choice(WEATHER),
        "time": rng.choice(TIMES), "time2": rng.choice(TIMES), "went": rng.choice(WENT),
        "food": rng.choice(FOODS), "friend_food": rng.choice(FOODS), "feeling": rng.choice(FEELINGS),
        "feeling2": rng.choice(FEELINGS), "part": rng.choice(PARTS), "gift": rng.choice(GIFTS),
        "gift2": rng.choice(GIFTS), "thing2": rng.choice(THINGS), "action": rng.choice(ACTIONS),
    }
    parts, spans, at = [], [], 0
    plot = _PLOTS[rng.random() < 0.4]
    for beat in (_INTRODUCTIONS, _BELONGINGS, _OUTINGS, _MEETINGS, *plot, _ENDINGS):
        text, found = fill(rng.choice(beat), fields, at)
        parts.append(text)
        spans += found
        at += len(text) + 1
    labels = {"strand": "stories"} | {
        name: fields[name] for name in ("hero", "friend", "place", "thing", "colour", "animal", "pet", "job", "trait")
    }
    return Document(" ".join(parts), labels, tuple(spans))
