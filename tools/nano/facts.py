"""Short facts about countries, drawn from the Factbook's fields, and the ways to ask for them. Standard library only.

FIELDS[name] = (asking wordings, held-out wordings, short answer, full answer). A held-out wording is a sentence that never
occurs in training; its words do, in other sentences. `extract` gives {country: {field: value}}.
"""

import json
import re

# Frames make many wordings of few parts, so that asking is learned and not each question by heart. A part is a noun phrase
# ("the capital of {c}"), an indirect question ("which city is the capital of {c}") or a whole question.
PHRASE_FRAMES = ["What is {p}?", "What's {p}?", "Tell me {p}.", "Give me {p}.", "Name {p}.", "{p}?", "I need {p}.",
                 "Please tell me {p}.", "Do you know {p}?", "Can you tell me {p}?", "I would like to know {p}.",
                 "Could you give me {p}?", "I forgot {p}.", "Look up {p}.", "What is {p} again?", "{p}, please."]
CLAUSE_FRAMES = ["Do you know {p}?", "Can you tell me {p}?", "Could you tell me {p}?", "Tell me {p}.", "Please tell me {p}.",
                 "I would like to know {p}.", "I want to know {p}.", "I wonder {p}.", "Say {p}.", "Do you remember {p}?",
                 "Would you tell me {p}?", "I forgot {p}."]
QUESTION_FRAMES = ["{p}", "{p}", "Hi! {p}", "A question: {p}", "{p} Thanks.", "Please answer: {p}"]

# name: (noun phrases, indirect questions, whole questions, held-out wordings, short answer, full answer)
PARTS = {
    "capital": (
        ["the capital of {c}", "the capital city of {c}", "{c}'s capital", "{c}'s capital city", "the name of the capital of {c}",
         "the seat of government of {c}"],
        ["which city is the capital of {c}", "what the capital of {c} is", "what {c}'s capital is called",
         "which city {c} has as its capital"],
        ["Which city is the capital of {c}?", "Which is {c}'s capital?", "{c}: what is its capital?", "In {c}, what is the capital?",
         "Which city is the seat of government of {c}?", "What city is the capital of {c}?", "How is the capital of {c} called?",
         "What capital does {c} have?", "The capital of {c} is which city?"],
        ["Could you tell me which city is {c}'s capital?", "In {c}, which city is the capital?",
         "I forgot the name of the capital of {c}, what is it?"],
        "{v}", "The capital of {c} is {v}."),
    "population": (
        ["the population of {c}", "{c}'s population", "the number of people in {c}", "the number of inhabitants of {c}",
         "the number of residents of {c}", "the size of {c}'s population"],
        ["how many people {c} has", "how many inhabitants {c} has", "how large the population of {c} is", "how many live in {c}",
         "how many residents {c} has"],
        ["How many people live in {c}?", "How big is the population of {c}?", "How many inhabitants does {c} have?",
         "How many people are there in {c}?", "How many residents does {c} have?", "{c}: how many people live there?",
         "In {c}, how many people are there?", "What population does {c} have?", "How many citizens live in {c}?"],
        ["How many residents are there in {c}?", "Could you tell me how many people live in {c}?"],
        "{v}", "{c} has a population of {v}."),
    "area": (
        ["the area of {c}", "{c}'s area", "the total area of {c}", "the area of {c} in square kilometers", "the size of {c}",
         "the surface of {c}", "{c}'s size in square kilometers"],
        ["how big {c} is", "how many square kilometers {c} covers", "how much area {c} has", "what size {c} has"],
        ["How large is {c}?", "How big is {c}?", "How many square kilometers does {c} cover?", "How many square kilometers is {c}?",
         "{c}: how large is it?", "What size does {c} have?", "How much land does {c} cover?", "In square kilometers, how big is {c}?"],
        ["What is the size of {c} in square kilometers?", "Could you tell me how large {c} is?"],
        "{v} sq km", "{c} has a total area of {v} sq km."),
    "language": (
        ["the language of {c}", "the main language of {c}", "{c}'s language", "the most common language of {c}",
         "the language that people speak in {c}", "the language most people in {c} speak"],
        ["which language people speak in {c}", "what they speak in {c}", "which language is spoken in {c}",
         "what the main language of {c} is", "what language is the most common in {c}"],
        ["What language is spoken in {c}?", "Which language do people speak in {c}?", "What do they speak in {c}?",
         "Which language is spoken in {c}?", "In {c}, which language is spoken?", "What language do people in {c} mainly speak?",
         "{c}: which language?", "Which language does {c} have?", "What is mostly spoken in {c}?"],
        ["Which language is mainly spoken in {c}?", "What is the most common language in {c}?"],
        "{v}", "The main language of {c} is {v}."),
    "region": (
        ["the location of {c}", "{c}'s location", "the region of {c}", "the part of the world where {c} is", "the place of {c} on the map"],
        ["where {c} is", "in which part of the world {c} is", "in which region {c} lies", "where {c} lies",
         "whereabouts {c} lies", "where to find {c}"],
        ["Where is {c}?", "In which part of the world is {c}?", "Where is {c} located?", "Where can I find {c} on a map?",
         "Which region is {c} in?", "Where does {c} lie?", "In what region is {c}?", "Whereabouts does {c} lie?", "{c}: where is it?",
         "Where in the world is {c}?"],
        ["Whereabouts is {c}?", "Could you tell me where {c} is located?"],
        "{v}", "{c} is located in {v}."),
    "highest": (
        ["the highest point of {c}", "the highest mountain of {c}", "{c}'s highest point", "the highest point in {c}",
         "the highest place of {c}", "the tallest mountain in {c}"],
        ["which point in {c} is the highest", "where {c} is highest", "which mountain is the highest in {c}",
         "how high the highest point of {c} is", "which place in {c} is the highest"],
        ["Which point in {c} is the highest?", "What is the highest mountain in {c}?", "How high is the highest point in {c}?",
         "Where is {c} highest?", "In {c}, what is the highest point?", "Which mountain is the highest in {c}?",
         "Where is the highest place of {c}?", "{c}: which point is the highest?"],
        ["What is the highest place in {c}?", "Where is the highest point in {c}?"],
        "{v}", "The highest point of {c} is {v}."),
    "neighbours": (
        ["the neighbours of {c}", "{c}'s neighbours", "the countries that border {c}", "the countries next to {c}",
         "the neighbouring countries of {c}", "the countries around {c}", "the countries that share a border with {c}"],
        ["which countries border {c}", "who {c}'s neighbours are", "which countries lie next to {c}",
         "which countries {c} shares a border with", "what countries are around {c}"],
        ["Which countries border {c}?", "What are the neighbours of {c}?", "Which countries does {c} border?",
         "Who are {c}'s neighbours?", "List the countries that border {c}.", "Which countries lie next to {c}?",
         "Which countries share a land border with {c}?", "With which countries does {c} share a border?",
         "What countries is {c} next to?", "{c}: which countries are its neighbours?", "Which neighbours does {c} have?"],
        ["Which countries are next to {c}?", "What countries share a border with {c}?"],
        "{v}", "{c} borders {v}."),
    "currency": (
        ["the currency of {c}", "{c}'s currency", "the money of {c}", "the money used in {c}", "the name of the currency of {c}",
         "the currency that people in {c} pay in"],
        ["which currency is used in {c}", "what money they use in {c}", "what currency {c} has", "how people pay in {c}",
         "which money {c} uses"],
        ["Which currency is used in {c}?", "What money do they use in {c}?", "What currency does {c} have?",
         "In which currency do people pay in {c}?", "Which money do people use in {c}?", "What do people in {c} pay with?",
         "In {c}, which currency is used?", "{c}: which currency?", "Which currency does {c} use?", "With which money do I pay in {c}?"],
        ["How do people pay in {c}, in which currency?", "Which money is used in {c}?"],
        "{v}", "The currency of {c} is: {v}."),
    "domain": (
        ["the internet country code of {c}", "{c}'s top-level domain", "the internet domain of {c}", "the country code domain of {c}",
         "the top-level domain of {c}", "the ending of web addresses of {c}", "{c}'s internet code"],
        ["which internet code {c} has", "which top-level domain {c} uses", "how web addresses of {c} end",
         "what addresses in {c} end with"],
        ["Which internet code does {c} have?", "What is the domain of {c} on the internet?", "Which domain do web addresses of {c} have?",
         "How do web addresses in {c} end?", "Which top-level domain does {c} have?", "What do internet addresses of {c} end with?",
         "{c}: which internet code?", "On the web, which code belongs to {c}?"],
        ["Which top-level domain belongs to {c}?", "What do web addresses in {c} end with?"],
        "{v}", "The internet country code of {c} is {v}."),
    "adjective": (
        ["the adjective for {c}", "the nationality of people from {c}", "the word for people from {c}", "{c}'s adjective",
         "the adjective of {c}", "the name for the people of {c}"],
        ["what people from {c} are called", "which adjective {c} has", "how people of {c} are called",
         "what you call the people of {c}", "which adjective goes with {c}"],
        ["What are people from {c} called?", "What do you call someone from {c}?", "What do you call the people of {c}?",
         "How are people from {c} called?", "Which adjective goes with {c}?", "Someone from {c} is called what?",
         "What nationality has a person from {c}?", "Which adjective does {c} have?", "{c}: which adjective?"],
        ["How do you call the people of {c}?", "Which adjective belongs to {c}?"],
        "{v}", "The adjective for {c} is {v}."),
    "government": (
        ["the government type of {c}", "the type of government of {c}", "the form of government of {c}", "{c}'s form of government",
         "the kind of government of {c}", "the kind of government that {c} has", "{c}'s government type"],
        ["how {c} is governed", "what type of government {c} has", "which form of government {c} has",
         "what kind of government there is in {c}", "which kind of state {c} is"],
        ["What type of government does {c} have?", "How is {c} governed?", "What form of government does {c} have?",
         "What kind of government does {c} have?", "What government does {c} have?", "In {c}, what is the form of government?",
         "{c}: what type of government?", "Which type of government is there in {c}?", "What kind of state is {c}?"],
        ["Which kind of government does {c} have?", "What is the form of government in {c}?"],
        "{v}", "The government type of {c} is: {v}."),
    "independence": (
        ["the independence of {c}", "the date of independence of {c}", "the date when {c} became independent", "{c}'s independence date",
         "the day of {c}'s independence", "the year in which {c} became independent"],
        ["when {c} became independent", "when {c} gained independence", "since when {c} is independent",
         "on which date {c} became independent", "how long {c} has been independent"],
        ["When did {c} become independent?", "When did {c} gain independence?", "In which year did {c} become independent?",
         "On which date did {c} become independent?", "Since when is {c} independent?", "When was {c}'s independence?",
         "{c}: when did it become independent?", "Since what date has {c} been an independent country?",
         "When has {c} become independent?"],
        ["Since when has {c} been independent?", "What is the date of {c}'s independence?"],
        "{v}", "{c} became independent on {v}."),
    "life": (
        ["the life expectancy in {c}", "the life expectancy of {c}", "the life expectancy at birth in {c}", "{c}'s life expectancy",
         "the average age that people in {c} reach", "the average length of life in {c}", "the life span of people in {c}"],
        ["how long people live in {c}", "how old people get in {c}", "what the life expectancy in {c} is",
         "how many years a person in {c} lives", "how long people in {c} live on average"],
        ["How long do people live in {c}?", "How old do people get in {c}?", "What life expectancy does {c} have?",
         "How many years do people in {c} live?", "How long do people in {c} live on average?", "In {c}, how old do people become?",
         "What age do people in {c} reach on average?", "{c}: how long do people live there?", "How long does someone in {c} live?"],
        ["What is the average life span in {c}?", "How long does a person in {c} live on average?"],
        "{v} years", "The life expectancy at birth in {c} is {v} years."),
    "climate": (
        ["the climate of {c}", "{c}'s climate", "the climate in {c}", "the usual weather of {c}", "the kind of climate of {c}",
         "a description of the climate of {c}"],
        ["what the climate of {c} is like", "what the climate is in {c}", "how the climate of {c} is", "what climate {c} has",
         "what kind of climate there is in {c}"],
        ["What is the climate like in {c}?", "How is the weather in {c} usually?", "Tell me about the climate of {c}.",
         "What climate does {c} have?", "How is the climate in {c}?", "Describe {c}'s climate.", "Which kind of climate is there in {c}?",
         "In {c}, what is the climate?", "{c}: what is the climate?", "Describe the usual weather of {c}."],
        ["What kind of climate does {c} have?", "Describe the climate of {c}."],
        "{v}", "The climate of {c} is {v}."),
    "exports": (
        ["the exports of {c}", "the main exports of {c}", "{c}'s exports", "the main export goods of {c}", "the goods that {c} exports",
         "the goods {c} sells to other countries", "the products that come from {c}", "the products of {c} sold abroad"],
        ["what {c} exports", "which goods {c} exports", "what {c} sells to other countries", "which products {c} exports",
         "what goods {c} sells abroad"],
        ["What does {c} export?", "What are the main exports of {c}?", "Which goods does {c} export?", "What products does {c} export?",
         "What does {c} sell abroad?", "Which goods come from {c}?", "What does {c} sell to other countries?",
         "Which products come from {c}?", "{c}: what does it export?", "In {c}, what is made for export?"],
        ["Which products does {c} sell abroad?", "What goods come from {c}?"],
        "{v}", "{c} exports {v}."),
    "religion": (
        ["the main religion of {c}", "the main religion in {c}", "the religion of {c}", "{c}'s religion", "the largest religion of {c}",
         "the most common religion in {c}", "the belief of most people in {c}"],
        ["which religion people in {c} follow", "what the main religion of {c} is", "which religion {c} has",
         "what people in {c} believe", "which religion is the largest in {c}"],
        ["Which religion do people in {c} follow?", "What is the largest religion of {c}?", "What do people in {c} believe?",
         "Which religion is the largest in {c}?", "What is the most common religion in {c}?", "Which religion does {c} have?",
         "In {c}, which religion is the main one?", "{c}: which religion?", "What religion do most people in {c} have?"],
        ["Which religion is the most common in {c}?", "What do most people in {c} believe?"],
        "{v}", "The main religion in {c} is {v}."),
}


def wordings(phrases, clauses, questions, held):
    """Every training wording: frames around the parts, without the held-out wordings."""
    made = [frame.format(p=part) for frames, parts in ((PHRASE_FRAMES, phrases), (CLAUSE_FRAMES, clauses), (QUESTION_FRAMES, questions))
            for frame in frames for part in parts]
    held = {text.lower().rstrip("?.") for text in held}
    return [text for text in made if text.lower().rstrip("?.") not in held]


# name: (training wordings, held-out wordings, short answer, full answer)
FIELDS = {name: (wordings(phrases, clauses, questions, held), held, short, full)
          for name, (phrases, clauses, questions, held, short, full) in PARTS.items()}
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
