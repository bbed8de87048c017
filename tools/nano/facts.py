"""Short facts about countries, drawn from the Factbook's fields, and the ways to ask for them. Standard library only.

FIELDS[name] = (asking wordings, held-out wordings, short answer, full answer). The held-out wordings never occur in
training. `extract` gives {country: {field: value}}.
"""

import json
import re

FIELDS = {
    "capital": (
        ["What is the capital of {c}?", "Which city is the capital of {c}?", "Name the capital of {c}.", "capital of {c}?",
         "What's {c}'s capital?", "I need the capital city of {c}.", "Do you know the capital of {c}?",
         "Tell me the capital city of {c}.", "{c}: what is its capital?", "What is {c}'s capital city?",
         "Please give me the capital of {c}.", "Which city is the seat of government of {c}?"],
        ["Could you tell me which city is {c}'s capital?", "In {c}, which city is the capital?",
         "I forgot the name of the capital of {c}, what is it?"],
        "{v}", "The capital of {c} is {v}."),
    "population": (
        ["What is the population of {c}?", "How many people live in {c}?", "How big is the population of {c}?",
         "population of {c}?", "Tell me the population of {c}.", "How many inhabitants does {c} have?",
         "What's {c}'s population?", "Give me the number of people in {c}."],
        ["How many residents are there in {c}?", "Could you tell me how many people live in {c}?"],
        "{v}", "{c} has a population of {v}."),
    "area": (
        ["What is the area of {c}?", "How large is {c}?", "How big is {c}?", "What is the total area of {c}?",
         "Tell me the area of {c} in square kilometers.", "area of {c}?", "How many square kilometers does {c} cover?"],
        ["What is the size of {c} in square kilometers?", "Could you tell me how large {c} is?"],
        "{v} sq km", "{c} has a total area of {v} sq km."),
    "language": (
        ["What language is spoken in {c}?", "Which language do people speak in {c}?", "What is the main language of {c}?",
         "What do they speak in {c}?", "language of {c}?", "Tell me the main language of {c}."],
        ["Which language is mainly spoken in {c}?", "What is the most common language in {c}?"],
        "{v}", "The main language of {c} is {v}."),
    "region": (
        ["Where is {c}?", "In which part of the world is {c}?", "Where is {c} located?", "Where can I find {c} on a map?",
         "Which region is {c} in?", "location of {c}?", "Tell me where {c} is."],
        ["Whereabouts is {c}?", "Could you tell me where {c} is located?"],
        "{v}", "{c} is located in {v}."),
    "highest": (
        ["What is the highest point of {c}?", "What is the highest mountain in {c}?", "highest point of {c}?",
         "Which point in {c} is the highest?", "Name the highest point of {c}.", "How high is the highest point in {c}?"],
        ["What is the highest place in {c}?", "Where is the highest point in {c}?"],
        "{v}", "The highest point of {c} is {v}."),
    "neighbours": (
        ["Which countries border {c}?", "What are the neighbours of {c}?", "Which countries does {c} border?",
         "Name the neighbours of {c}.", "Who are {c}'s neighbours?", "List the countries that border {c}."],
        ["Which countries are next to {c}?", "What countries share a border with {c}?"],
        "{v}", "{c} borders {v}."),
    "currency": (
        ["What is the currency of {c}?", "Which currency is used in {c}?", "What money do they use in {c}?",
         "currency of {c}?", "Tell me the currency of {c}.", "What currency does {c} have?"],
        ["How do people pay in {c}, in which currency?", "Which money is used in {c}?"],
        "{v}", "The currency of {c} is: {v}."),
    "domain": (
        ["What is the internet country code of {c}?", "What is {c}'s top-level domain?", "internet domain of {c}?",
         "Which internet code does {c} have?", "Tell me the country code domain of {c}."],
        ["Which top-level domain belongs to {c}?", "What do web addresses in {c} end with?"],
        "{v}", "The internet country code of {c} is {v}."),
    "adjective": (
        ["What are people from {c} called?", "What is the adjective for {c}?", "What is the nationality of people from {c}?",
         "adjective for {c}?", "What do you call someone from {c}?"],
        ["How do you call the people of {c}?", "Which adjective belongs to {c}?"],
        "{v}", "The adjective for {c} is {v}."),
    "government": (
        ["What type of government does {c} have?", "What is the government type of {c}?", "How is {c} governed?",
         "form of government in {c}?", "Tell me the form of government of {c}."],
        ["Which kind of government does {c} have?", "What is the form of government in {c}?"],
        "{v}", "The government type of {c} is: {v}."),
    "independence": (
        ["When did {c} become independent?", "When did {c} gain independence?", "In which year did {c} become independent?",
         "independence of {c}?", "Tell me when {c} became independent."],
        ["Since when has {c} been independent?", "What is the date of {c}'s independence?"],
        "{v}", "{c} became independent on {v}."),
    "life": (
        ["What is the life expectancy in {c}?", "How long do people live in {c}?", "life expectancy of {c}?",
         "How old do people get in {c}?", "Tell me the life expectancy at birth in {c}."],
        ["What is the average life span in {c}?", "How long does a person in {c} live on average?"],
        "{v} years", "The life expectancy at birth in {c} is {v} years."),
    "climate": (
        ["What is the climate of {c}?", "What is the climate like in {c}?", "climate in {c}?", "How is the weather in {c} usually?",
         "Tell me about the climate of {c}."],
        ["What kind of climate does {c} have?", "Describe the climate of {c}."],
        "{v}", "The climate of {c} is {v}."),
    "exports": (
        ["What does {c} export?", "What are the main exports of {c}?", "exports of {c}?", "Which goods does {c} export?",
         "Tell me the main export goods of {c}."],
        ["Which products does {c} sell abroad?", "What goods come from {c}?"],
        "{v}", "{c} exports {v}."),
    "religion": (
        ["What is the main religion in {c}?", "Which religion do people in {c} follow?", "religion in {c}?",
         "What is the largest religion of {c}?"],
        ["Which religion is the most common in {c}?", "What do most people in {c} believe?"],
        "{v}", "The main religion in {c} is {v}."),
}
# Asked by name in the wording, so that "the" reads well.
WITH_THE = {"United States", "United Kingdom", "Netherlands", "Philippines", "United Arab Emirates", "Czech Republic",
            "Maldives", "Solomon Islands", "Marshall Islands", "Central African Republic", "Gaza Strip", "West Bank",
            "Holy See", "Cayman Islands", "Cook Islands", "Faroe Islands", "Falkland Islands", "Isle of Man", "Comoros",
            "Seychelles", "British Virgin Islands", "Northern Mariana Islands", "Turks and Caicos Islands"}
SKIPPED = {"Congo", "DRC", "The Dominican", "Virgin Islands", "Cocos", "Baker Island", "Saint Martin"}  # cut or unclear names


def first_clause(text, most=70):
    text = re.split(r"[;(]| note", text)[0].strip(" ,:-")
    return text if 0 < len(text) <= most else ""


def first_items(text, most=4):
    items = [re.sub(r"\s*\(.*?\)?$", "", item).strip() for item in re.split(r"[,;]", re.sub(r"\([^)]*\)", "", text))]
    items = [re.sub(r"\s*\d[\d.,%-]*( est.)?$", "", item).strip() for item in items]
    items = [item for item in items if 1 < len(item) < 40 and not item.startswith("note")]
    return items[:most]


def joined(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def country_facts(sections):
    def field(section, name, key="text"):
        text = sections.get(section, {}).get(name, {}).get(key, "")
        return "" if text.strip().lower() in ("na", "none", "n/a") else text
    facts = {}
    facts["capital"] = first_clause(field("Government", "Capital", "name"), 40)
    facts["population"] = (re.match(r"[\d,]{3,}", field("People and Society", "Population")) or [""])[0]
    facts["area"] = (re.match(r"([\d,.]+) sq km", field("Geography", "Area", "total")) or ["", ""])[1]
    languages = re.sub(r"\([^)]*\)", "", field("People and Society", "Languages"))
    facts["language"] = (re.match(r"([A-Z][A-Za-z' -]+?)\s*(?:[,;]|\d|$|and |or )", languages) or ["", ""])[1].strip().removesuffix(" only")
    facts["region"] = first_clause(field("Geography", "Location").split(",")[0], 40)
    highest = field("Geography", "Elevation extremes", "highest point")
    facts["highest"] = (re.match(r"[^;(]+? [\d,]+ m\b", highest) or [""])[0]
    borders = re.findall(r"([A-Z][A-Za-z' .-]+?) [\d,.]+ km", field("Geography", "Land boundaries", "border countries"))
    borders = [{"US": "the United States", "UK": "the United Kingdom"}.get(name, name) for name in borders]
    overseas = any(key.startswith("metropolitan") for key in sections.get("Geography", {}).get("Land boundaries", {}))
    facts["neighbours"] = joined(borders) if 0 < len(borders) <= 8 and not overseas else ""
    facts["currency"] = (re.match(r"([A-Z]?[A-Za-z' ]+? \([A-Z]{3}\)) per", field("Economy", "Exchange rates")) or ["", ""])[1]
    facts["domain"] = (re.match(r"\.[a-z]{2}\b", field("Communications", "Internet country code")) or [""])[0]
    facts["adjective"] = first_clause(field("People and Society", "Nationality", "adjective"), 30)
    facts["government"] = first_clause(field("Government", "Government type"), 60)
    facts["independence"] = (re.match(r"\d{1,2} [A-Z][a-z]+ \d{4}", field("Government", "Independence")) or [""])[0]
    life = field("People and Society", "Life expectancy at birth", "total population")
    facts["life"] = (re.match(r"[\d.]+", life) or [""])[0]
    facts["climate"] = first_clause(field("Geography", "Climate"), 70)
    exports = first_items(field("Economy", "Exports - commodities"))
    facts["exports"] = joined(exports) if exports else ""
    religion = re.sub(r"\([^)]*\)", "", field("People and Society", "Religions"))
    facts["religion"] = (re.match(r"([A-Z][A-Za-z' -]+?)\s*(?:[,;]|\d|$|more|overwhelm|about)", religion) or ["", ""])[1].strip()
    return {name: value for name, value in facts.items() if value and "none" not in value.lower()}


def extract(path):
    with open(path, encoding="utf-8") as file:
        countries = json.load(file)
    out = {}
    for name, entry in countries.items():
        facts = country_facts(entry["sections"])
        if name not in SKIPPED and len(facts) >= 3:
            out[name] = facts
    return out


def spoken(country):
    """The name inside a sentence."""
    return "the " + country if country in WITH_THE else country


def full_answer(field, country, value):
    text = FIELDS[field][3].format(c=spoken(country), v=value)
    return text[0].upper() + text[1:]
