"""What the generated conversations are about: small talk, written-out arithmetic, and tools with the requests that need
them. Standard library only; make_conversations.py draws from here.

A scenario is (tool name, slots, requests, arguments, result, answers): slots are drawn by name (SLOTS), requests are
texts with the slots in braces, arguments and result are functions of the drawn slots, answers are texts over the slots
and the result's fields.
"""

import json

WORDS = """apple river stone cloud green window garden paper silver bridge candle forest music letter orange table winter
yellow rabbit engine pencil basket mirror island planet summer pocket copper button kitten ladder market needle ocean
purple ribbon saddle tunnel velvet wagon anchor bottle castle dragon feather guitar hammer jacket kettle lemon magnet
nickel oyster parrot quartz rocket shovel ticket umbrella violin walnut zebra tiger lion horse eagle salmon carpet lamp""".split()
THINGS = """apples books coins eggs flowers letters marbles nails oranges pencils roses seeds shells stamps tickets
bottles boxes cards chairs cookies""".split()

SMALL_TALK = [
    (["Hello", "Hi", "Hello!", "Hi there", "Hey", "Good morning", "Good evening", "Good afternoon", "Hello there", "Hey there!"],
     ["Hello! How can I help you?", "Hi! What can I do for you?", "Hello! What would you like to know?"]),
    (["How are you?", "How are you doing?", "How do you do?", "How is it going?", "Are you well?", "How are you today?"],
     ["I am fine, thank you. How can I help you?", "I am well, thanks for asking. What can I do for you?"]),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself.", "What's your name?",
      "Which model are you?", "Are you a person?", "Are you a human?", "Are you an AI?"],
     ["I am ds4-nano, a very small language model.", "I am ds4-nano, a small language model trained from scratch."]),
    (["What can you do?", "How can you help me?", "What are you good at?", "What are your skills?", "Help", "Can you help me?"],
     ["I can answer questions about countries, do simple arithmetic, sort lists, find facts in a text and call tools.",
      "I can tell you facts about countries, compute, make lists, read texts and use tools."]),
    (["Thank you", "Thanks", "Thanks a lot!", "Thank you very much.", "Great, thanks", "Thank you for your help."],
     ["You are welcome!", "You're welcome. Is there anything else?", "My pleasure."]),
    (["Goodbye", "Bye", "See you later", "Bye bye", "Good night", "I have to go now.", "See you tomorrow!"],
     ["Goodbye! Have a nice day.", "Bye! See you soon.", "Goodbye, and take care."]),
    (["What is your favourite colour?", "Which colour do you like?", "Do you have a favourite color?"],
     ["I do not see colours, but I like the word blue.", "I have no favourite, but blue sounds nice."]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny."],
     ["Why did the token cross the window? To get to the other side of the context.",
      "I would tell you a joke about recursion, but first I would have to tell you a joke about recursion."]),
    (["I am sad.", "I feel sad today.", "I had a bad day.", "I feel lonely."],
     ["I am sorry to hear that. Do you want to talk about it?", "I am sorry. I hope tomorrow is better."]),
    (["I am happy!", "I had a great day.", "I feel good today.", "Today is a good day."],
     ["That is wonderful to hear!", "I am glad to hear that!"]),
    (["What do you think about the weather?", "It is cold today.", "It rains again.", "Nice weather today, isn't it?"],
     ["I cannot feel the weather, but I hope you are comfortable.", "I have no window, but I hope the day is pleasant for you."]),
    (["Are you real?", "Do you have feelings?", "Do you sleep?", "Do you eat?", "Can you see me?", "Where do you live?"],
     ["I am a computer program, so no body, no sleep and no food for me.", "I am only a small program that predicts text."]),
    (["What is the meaning of life?", "Why are we here?", "What is love?"],
     ["That is a big question for a small model. Many people say: to be kind to each other.",
      "I am too small to know. What do you think?"]),
    (["Good job!", "Well done!", "You are great.", "You are smart.", "I like you."],
     ["Thank you, that is kind of you.", "Thanks! I do my best."]),
    (["You are wrong.", "That is not right.", "This is bad.", "You are stupid."],
     ["I am sorry. I am a very small model and make mistakes.", "Sorry about that. Could you tell me what is wrong?"]),
    (["How old are you?", "When were you born?", "When is your birthday?"],
     ["I do not have an age like a person.", "I am a program, so I have no birthday."]),
    (["Which language do you speak?", "Do you speak English?", "Do you speak French?", "Can you speak German?"],
     ["I speak English.", "I only speak English."]),
    (["Who made you?", "Who trained you?", "Where do you come from?"],
     ["I was trained from scratch by the ds4 project.", "The ds4 project trained me on public-domain texts."]),
    (["What are you made of?", "What architecture do you have?", "How do you work?"],
     ["I am a mixture-of-experts model with compressed sparse attention, only very small.",
      "I predict one token after another, with a small DeepSeek V4 architecture."]),
    (["Nice to meet you.", "Pleased to meet you.", "Glad to meet you, I am {name}."],
     ["Nice to meet you too!", "The pleasure is mine."]),
    (["What time is it?", "What day is it today?", "What is the date today?", "What is the latest news?",
      "What is the weather in my town?"],
     ["I cannot look that up: I have no tool for it.", "I do not know: I have no tool that could tell me."]),
    (["ok", "okay", "yes", "no", "hm", "I see", "Alright"], ["Is there anything else I can do for you?", "What would you like to do next?"]),
]


# Arithmetic, written out as one learns it at school ------------------------------------------------------------

def add_steps(a, b):
    if a < 10 and b < 10:
        return f"{a} + {b} = {a + b}."
    steps, carry, digits_a, digits_b = [], 0, str(a)[::-1], str(b)[::-1]
    for at in range(max(len(digits_a), len(digits_b))):
        x = int(digits_a[at]) if at < len(digits_a) else 0
        y = int(digits_b[at]) if at < len(digits_b) else 0
        total = x + y + carry
        steps.append(f"{x}+{y}" + (f"+{carry}" if carry else "") + f"={total}, write {total % 10}")
        carry = total // 10
    if carry:
        steps.append(f"write {carry}")
    return f"{a} + {b}: " + "; ".join(steps) + f". Result {a + b}."


def subtract_steps(a, b):
    if a < 10:
        return f"{a} - {b} = {a - b}."
    steps, borrow, digits_a, digits_b = [], 0, str(a)[::-1], str(b)[::-1]
    for at in range(len(digits_a)):
        x, y = int(digits_a[at]), int(digits_b[at]) if at < len(digits_b) else 0
        value = x - y - borrow
        text = f"{x}-{y}" + (f"-{borrow}" if borrow else "")
        steps.append(text + (f"={value}" if value >= 0 else f"={value}, plus 10") + f", write {value % 10}")
        borrow = int(value < 0)
    return f"{a} - {b}: " + "; ".join(steps) + f". Result {a - b}."


def multiply_steps(a, b):
    if a < 10 and b < 10:
        return f"{a} * {b} = {a * b}."
    if b < 10:
        parts = [int(d) * 10**at for at, d in enumerate(str(a)[::-1])][::-1]
        parts = [part for part in parts if part]
        products = [part * b for part in parts]
        text = " + ".join(f"{part} * {b}" for part in parts) + " = " + " + ".join(map(str, products))
        total, sums = products[0] if products else 0, []
        for product in products[1:]:
            sums.append(f"{total} + {product} = {total + product}")
            total += product
        return f"{a} * {b} = {text}. " + ". ".join(sums + [f"Result {a * b}."])
    tens, ones = b // 10 * 10, b % 10
    text = f"{a} * {b} = {a} * {tens} + {a} * {ones}. {multiply_steps(a, tens // 10)} So {a} * {tens} = {a * tens}."
    return text + f" {multiply_steps(a, ones)} {add_steps(a * tens, a * ones)}"


# Tools ---------------------------------------------------------------------------------------------------------

def schema(description, required=None, **properties):
    """A function's schema; a property is (type, description) or a dict."""
    shaped = {name: {"type": p[0], "description": p[1]} if isinstance(p, tuple) else p for name, p in properties.items()}
    return {"description": description, "parameters": {"type": "object", "properties": shaped,
                                                       "required": required or list(properties)}}


CATALOGUE = {
    "get_weather": schema("Get the current weather of a city", city=("string", "Name of the city")),
    "get_forecast": schema("Get the weather forecast", city=("string", "Name of the city"), days=("integer", "Number of days")),
    "get_time": schema("Get the current time in a city", city=("string", "The city")),
    "calculator": schema("Evaluate an arithmetic expression", expression=("string", "The expression, such as 3*4")),
    "convert_currency": schema("Convert an amount of money", amount=("number", "The amount"), source=("string", "Currency code"),
                               target=("string", "Currency code")),
    "send_email": schema("Send an email", to=("string", "Address of the receiver"), subject=("string", "The subject"),
                         body=("string", "The text")),
    "send_message": schema("Send a short message to a person", person=("string", "Who gets it"), text=("string", "The message")),
    "set_timer": schema("Start a timer", minutes=("integer", "Minutes until it rings")),
    "set_alarm": schema("Set an alarm", time=("string", "Time of day, HH:MM")),
    "create_event": schema("Add an event to the calendar", title=("string", "Title"), date=("string", "Date, YYYY-MM-DD"),
                           time=("string", "Time, HH:MM")),
    "search": schema("Search the web", query=("string", "What to search for")),
    "translate": schema("Translate a text", text=("string", "The text"), language=("string", "Target language")),
    "get_stock_price": schema("Get the price of a stock", symbol=("string", "Ticker symbol")),
    "turn_light": schema("Switch a light on or off", room=("string", "The room"), on=("boolean", "true to switch on")),
    "set_temperature": schema("Set the heating of a room", room=("string", "The room"), degrees=("number", "Degrees Celsius")),
    "list_files": schema("List the files of a folder", path=("string", "Path of the folder")),
    "read_file": schema("Read a text file", path=("string", "Path of the file")),
    "write_file": schema("Write a text file", path=("string", "Path of the file"), content=("string", "What to write")),
    "read": schema("Read lines of a file", ["path"], path=("string", "File path"), start_line=("integer", "First line")),
    "bash": schema("Run a shell command", ["command"], command=("string", "The command"),
                   timeout_sec=("integer", "Seconds until it is stopped")),
    "delete_file": schema("Delete a file", path=("string", "Path of the file")),
    "play_music": schema("Play a song", song=("string", "Title of the song"), volume=("integer", "0 to 100")),
    "add_to_list": schema("Add items to the shopping list", items={"type": "array", "items": {"type": "string"},
                                                                   "description": "What to buy"}),
    "roll_dice": schema("Roll dice", count=("integer", "How many dice"), sides=("integer", "Sides of a die")),
    "get_population": schema("Look up the population of a country", country=("string", "The country")),
    "lookup_contact": schema("Find the phone number of a person", name=("string", "Name of the person")),
    "call_phone": schema("Call a phone number", number=("string", "The phone number")),
    "sum_numbers": schema("Add up numbers", numbers={"type": "array", "items": {"type": "number"}, "description": "The numbers"}),
    "set_brightness": schema("Set the brightness of the screen", level={"type": "string", "enum": ["low", "medium", "high"],
                                                                        "description": "How bright"}),
    "get_order": schema("Get the state of an order", order_id=("integer", "Number of the order")),
}
ROOMS = ["kitchen", "bedroom", "bathroom", "office", "living room", "garage", "hall", "cellar"]
CODES = ["USD", "EUR", "GBP", "JPY", "CHF", "SEK", "INR", "CAD"]
LANGUAGES = ["French", "German", "Spanish", "Italian", "Japanese", "Dutch", "Polish", "Swedish"]
EXTENSIONS = ["txt", "md", "csv", "log", "json", "py"]
CONDITIONS = ["sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear"]

SLOTS = {
    "city": lambda m: m.pick(m.capitals) if m.rng.random() < 0.7 else m.made_up().capitalize(),
    "country": lambda m: m.pick(m.countries),
    "person": lambda m: m.person(),
    "room": lambda m: m.pick(ROOMS),
    "word": lambda m: m.pick(WORDS),
    "words": lambda m: " ".join(m.rng.sample(WORDS, m.pick([2, 3, 4]))),
    "few": lambda m: m.rng.randrange(2, 8),
    "minutes": lambda m: m.rng.randrange(1, 60),
    "hours": lambda m: m.rng.randrange(2, 7),
    "amount": lambda m: m.number(m.pick([1, 2, 3])),
    "degrees": lambda m: m.rng.randrange(15, 26),
    "volume": lambda m: m.rng.randrange(1, 11) * 10,
    "code": lambda m: m.pick(CODES),
    "code2": lambda m: m.pick(CODES),
    "language": lambda m: m.pick(LANGUAGES),
    "time": lambda m: f"{m.rng.randrange(6, 23):02d}:{m.pick([0, 15, 30, 45]):02d}",
    "date": lambda m: f"20{m.rng.randrange(24, 30)}-{m.rng.randrange(1, 13):02d}-{m.rng.randrange(1, 29):02d}",
    "symbol": lambda m: "".join(m.pick("ABCDEFGHIKLMNOPRSTUVXYZ") for _ in range(m.pick([3, 4]))),
    "folder": lambda m: m.pick(["/home/", "/tmp/", "./", "src/", "docs/", "/data/"]) + m.made_up(),
    "file": lambda m: m.pick(["", "", "src/", "docs/", "/tmp/"]) + m.made_up() + "." + m.pick(EXTENSIONS),
    "email": lambda m: m.made_up() + "@" + m.made_up() + m.pick([".com", ".org", ".net"]),
    "a": lambda m: m.number(m.pick([2, 3])),
    "b": lambda m: m.number(m.pick([1, 2, 3])),
    "id": lambda m: m.number(m.pick([4, 5])),
    "level": lambda m: m.pick(["low", "medium", "high"]),
}


def items_of(slots):
    return slots["words"].split()


SCENARIOS = [
    ("get_weather", "city", ["What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?",
                             "Tell me the weather in {city}.", "Is it raining in {city}?", "Do I need an umbrella in {city}?"],
     lambda s: {"city": s["city"]},
     lambda s, m: {"city": s["city"], "temperature": m.rng.randrange(-9, 38), "condition": m.pick(CONDITIONS)},
     ["It is {temperature} degrees and {condition} in {city}.", "In {city} it is {condition} with {temperature} degrees."]),
    ("get_forecast", "city few", ["What will the weather be in {city} for the next {few} days?",
                                  "Give me a {few} day forecast for {city}.", "Forecast for {city}, {few} days."],
     lambda s: {"city": s["city"], "days": s["few"]},
     lambda s, m: {"city": s["city"], "days": s["few"], "forecast": m.pick(CONDITIONS)},
     ["The forecast for {city} for the next {few} days is {forecast}."]),
    ("get_time", "city", ["What time is it in {city}?", "Tell me the time in {city}.", "Current time in {city}?"],
     lambda s: {"city": s["city"]}, lambda s, m: {"city": s["city"], "time": SLOTS["time"](m)}, ["It is {time} in {city}."]),
    ("calculator", "a b", ["What is {a} * {b}? Use the calculator.", "Use the calculator: {a} * {b}", "Calculate {a} times {b}."],
     lambda s: {"expression": f"{s['a']}*{s['b']}"}, lambda s, m: {"result": s["a"] * s["b"]}, ["{a} * {b} = {result}."]),
    ("convert_currency", "amount code code2", ["Convert {amount} {code} to {code2}.", "How much is {amount} {code} in {code2}?"],
     lambda s: {"amount": s["amount"], "source": s["code"], "target": s["code2"]},
     lambda s, m: {"amount": round(s["amount"] * m.rng.uniform(0.5, 2), 2), "currency": s["code2"]},
     ["{s.amount} {code} is {amount} {code2}."]),
    ("send_email", "email word words", ["Send an email to {email} with the subject {word} and the text: {words}",
                                        "Write to {email}. Subject: {word}. Text: {words}"],
     lambda s: {"to": s["email"], "subject": s["word"], "body": s["words"]}, lambda s, m: {"status": "sent"},
     ["I sent the email to {email}.", "The email to {email} is sent."]),
    ("send_message", "person words", ["Tell {person}: {words}", "Send {person} the message: {words}", "Message {person} \"{words}\""],
     lambda s: {"person": s["person"], "text": s["words"]}, lambda s, m: {"status": "delivered"},
     ["I sent the message to {person}.", "Your message to {person} was delivered."]),
    ("set_timer", "minutes", ["Set a timer for {minutes} minutes.", "Remind me in {minutes} minutes.", "Timer, {minutes} minutes please.",
                              "Start a {minutes} minute timer."],
     lambda s: {"minutes": s["minutes"]}, lambda s, m: {"ok": True}, ["The timer is set to {minutes} minutes."]),
    ("set_timer", "hours", ["Set a timer for {hours} hours.", "Remind me in {hours} hours."],
     lambda s: {"minutes": s["hours"] * 60}, lambda s, m: {"ok": True}, ["The timer is set to {hours} hours."]),
    ("set_alarm", "time", ["Wake me up at {time}.", "Set an alarm for {time}.", "Alarm at {time} please."],
     lambda s: {"time": s["time"]}, lambda s, m: {"alarm": s["time"]}, ["The alarm is set for {time}."]),
    ("create_event", "word date time", ["Put {word} into my calendar on {date} at {time}.", "Create an event called {word} on {date}, {time}."],
     lambda s: {"title": s["word"], "date": s["date"], "time": s["time"]}, lambda s, m: {"event_id": m.number(4)},
     ["I added {word} on {date} at {time}. The event id is {event_id}."]),
    ("search", "words", ["Search for {words}.", "Look up {words} on the web.", "Find something about {words}."],
     lambda s: {"query": s["words"]}, lambda s, m: {"results": m.number(3), "first": m.made_up() + ".org"},
     ["I found {results} results. The first one is {first}."]),
    ("translate", "words language", ["Translate \"{words}\" into {language}.", "How do you say \"{words}\" in {language}?"],
     lambda s: {"text": s["words"], "language": s["language"]},
     lambda s, m: {"translation": " ".join(m.made_up(2) for _ in items_of(s))}, ["In {language} it is: {translation}"]),
    ("get_stock_price", "symbol", ["What is the price of {symbol}?", "Stock price of {symbol}?", "How much is a {symbol} share?"],
     lambda s: {"symbol": s["symbol"]}, lambda s, m: {"symbol": s["symbol"], "price": round(m.rng.uniform(5, 900), 2)},
     ["{symbol} costs {price}.", "The price of {symbol} is {price}."]),
    ("turn_light", "room", ["Turn on the light in the {room}.", "Switch the {room} light on.", "Lights on in the {room}, please."],
     lambda s: {"room": s["room"], "on": True}, lambda s, m: {"room": s["room"], "on": True}, ["The light in the {room} is on now."]),
    ("turn_light", "room", ["Turn off the light in the {room}.", "Switch the {room} light off.", "Make it dark in the {room}."],
     lambda s: {"room": s["room"], "on": False}, lambda s, m: {"room": s["room"], "on": False}, ["The light in the {room} is off now."]),
    ("set_temperature", "room degrees", ["Set the {room} to {degrees} degrees.", "Heat the {room} to {degrees} degrees."],
     lambda s: {"room": s["room"], "degrees": s["degrees"]}, lambda s, m: {"ok": True}, ["The {room} is set to {degrees} degrees."]),
    ("list_files", "folder", ["List the files in {folder}.", "What files are in {folder}?", "Show me the folder {folder}."],
     lambda s: {"path": s["folder"]},
     lambda s, m: {"files": [m.made_up() + "." + m.pick(EXTENSIONS) for _ in range(m.pick([1, 2, 3, 4]))]},
     ["The folder contains: {files}."]),
    ("read_file", "file", ["Read the file {file}.", "What is in {file}?", "Show me {file}.", "Open {file}."],
     lambda s: {"path": s["file"]}, lambda s, m: {"content": SLOTS["words"](m)}, ["The file {file} contains: {content}"]),
    ("read", "file", ["Read {file}.", "What does {file} say?"],
     lambda s: {"path": s["file"]}, lambda s, m: SLOTS["words"](m), ["The file says: {result}"]),
    ("write_file", "file words", ["Write \"{words}\" to {file}.", "Save the text {words} in {file}.", "Create {file} with the content: {words}"],
     lambda s: {"path": s["file"], "content": s["words"]}, lambda s, m: {"ok": True}, ["I wrote the text to {file}."]),
    ("delete_file", "file", ["Delete {file}.", "Remove the file {file}."],
     lambda s: {"path": s["file"]}, lambda s, m: {"deleted": s["file"]}, ["{file} is deleted."]),
    ("bash", "file", ["How many lines does {file} have? Use the shell.", "Count the lines of {file}."],
     lambda s: {"command": f"wc -l {s['file']}"}, lambda s, m: f"{m.number(3)} {s['file']}", ["wc -l says: {result}"]),
    ("bash", "folder", ["Run ls on {folder}.", "List {folder} with the shell.", "ls {folder}"],
     lambda s: {"command": f"ls {s['folder']}"}, lambda s, m: "\n".join(m.made_up() + "." + m.pick(EXTENSIONS) for _ in range(3)),
     ["The folder has these files:\n{result}"]),
    ("play_music", "words volume", ["Play {words} at volume {volume}.", "I want to hear {words}, volume {volume}."],
     lambda s: {"song": s["words"], "volume": s["volume"]}, lambda s, m: {"playing": s["words"]}, ["Now playing {playing}."]),
    ("add_to_list", "words", ["Add {and_words} to my shopping list.", "Put {and_words} on the list.", "I need to buy {and_words}."],
     lambda s: {"items": items_of(s)}, lambda s, m: {"count": len(items_of(s)) + m.rng.randrange(9)},
     ["Done. The list has {count} items now."]),
    ("roll_dice", "few", ["Roll {few} dice.", "Please roll {few} six-sided dice."],
     lambda s: {"count": s["few"], "sides": 6}, lambda s, m: {"rolls": [m.rng.randrange(1, 7) for _ in range(s["few"])]},
     ["The dice show {rolls}."]),
    ("get_population", "country", ["Look up the population of {country}.", "Use the tool to find the population of {country}."],
     lambda s: {"country": s["country"]}, lambda s, m: {"population": m.number(m.pick([5, 6, 7]))},
     ["The population of {country} is {population}."]),
    ("lookup_contact", "person", ["What is the phone number of {person}?", "Find the number of {person}.", "How can I call {person}?"],
     lambda s: {"name": s["person"]}, lambda s, m: {"number": "0" + str(m.number(6))}, ["The phone number of {person} is {number}."]),
    ("sum_numbers", "a b id", ["Add up {a}, {b} and {id} with the tool.", "Sum the numbers {a}, {b}, {id}."],
     lambda s: {"numbers": [s["a"], s["b"], s["id"]]}, lambda s, m: {"sum": s["a"] + s["b"] + s["id"]}, ["The sum is {sum}."]),
    ("set_brightness", "level", ["Set the brightness to {level}.", "Make the screen brightness {level}."],
     lambda s: {"level": s["level"]}, lambda s, m: {"ok": True}, ["The brightness is {level} now."]),
    ("get_order", "id", ["Where is my order {id}?", "What is the state of order {id}?", "Check order number {id}."],
     lambda s: {"order_id": s["id"]}, lambda s, m: {"order_id": s["id"], "state": m.pick(["shipped", "packed", "delivered", "delayed", "paid"])},
     ["Order {id} is {state}.", "Your order {id} is {state}."]),
]


class Fields(dict):
    """Slots and result fields for an answer; s.name is the slot where a result field has the same name."""

    def __missing__(self, key):
        return "{" + key + "}"


def spoken(value):
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def fill(text, slots, result=None):
    fields = {key: spoken(value) for key, value in slots.items()}
    if "words" in slots:
        words = items_of(slots)
        fields["and_words"] = ", ".join(words[:-1]) + " and " + words[-1]
    text = text.replace("{s.amount}", fields.get("amount", ""))
    if isinstance(result, dict):
        fields.update({key: spoken(value) for key, value in result.items()})
    elif result is not None:
        fields["result"] = spoken(result)
    return text.format_map(Fields(fields))


def draw(maker, scenario):
    """(tool name, request, arguments, result as the tool writes it, answer)."""
    name, slots, requests, arguments, result, answers = scenario
    values = {slot: SLOTS[slot](maker) for slot in slots.split()}
    got = result(values, maker)
    text = got if isinstance(got, str) else json.dumps(got, ensure_ascii=False)
    return name, fill(maker.pick(requests), values), arguments(values), text, fill(answers[0], values, got)


def invented(maker):
    """A tool nobody has seen: the name and parameters are made up, and the request says their values."""
    verb = maker.pick("check start stop open close make move count load scan mark reset print store fetch update".split())
    name = f"{verb}_{maker.made_up()}"
    properties, arguments, said = {}, {}, []
    for _ in range(maker.pick([1, 1, 2, 2, 3])):
        key = maker.pick(["mode", "level", "name", "size", "count", "target", "speed", "active", "tags", "color", "title", "ratio",
                          maker.made_up(2), maker.made_up(2)])
        kind = {"active": "boolean", "tags": "array", "size": "integer", "count": "integer", "level": "integer",
                "speed": "number", "ratio": "number"}.get(key) or maker.pick(["string", "string", "string", "integer"])
        if key in arguments:
            continue
        value = {"boolean": lambda: maker.rng.random() < 0.5, "array": lambda: SLOTS["words"](maker).split(),
                 "integer": lambda: maker.number(), "number": lambda: round(maker.rng.uniform(0, 20), 1),
                 "string": lambda: maker.pick([SLOTS["word"], SLOTS["person"], SLOTS["words"]])(maker)}[kind]()
        properties[key] = {"type": kind, "description": f"The {key}"}
        if kind == "array":
            properties[key]["items"] = {"type": "string"}
        arguments[key] = value
        text = ("true" if value else "false") if kind == "boolean" else spoken(value)
        said.append(maker.pick(["{k} {v}", "{k} = {v}", "{k} set to {v}", "the {k} {v}"]).format(k=key, v=text))
    entry = {"description": f"{verb.capitalize()} the {name.split('_')[1]}",
                       "parameters": {"type": "object", "properties": properties, "required": list(properties)}}
    request = maker.pick(["Call {n} with {a}.", "Use {n} with {a}.", "Please {v} the {o} with {a}.", "{v} {o}: {a}"]).format(
        n=name, v=verb, o=name.split("_")[1], a=" and ".join(said) if len(said) < 3 else ", ".join(said))
    key = maker.pick(["id", "count", "status", "value", "state"])
    value = maker.number(4) if key in ("id", "count", "value") else maker.pick(["ready", "done", "waiting", "full", "empty"])
    answer = f"Done. The {key} is {value}."
    return name, request[0].upper() + request[1:], arguments, json.dumps({key: value}), answer, entry


def pretty(schemas):
    return [{"name": name, "description": entry["description"], "parameters": entry["parameters"]} for name, entry in schemas.items()]


MISSING = "I do not have a tool for that."


def tool_conversation(maker):
    from make_conversations import says, user
    rng = maker.rng
    kind = rng.random()
    schemas, steps = {}, []
    count = 1 if kind < 0.45 else 2 if kind < 0.62 else 3 if kind < 0.67 else 1
    for _ in range(count):
        if rng.random() < 0.35:
            *step, entry = invented(maker)
            schemas[step[0]] = entry
        else:
            step = draw(maker, maker.pick(SCENARIOS))
            schemas[step[0]] = CATALOGUE[step[0]]
        steps.append(step)
    if count > 1 and rng.random() < 0.6:  # the same tool twice is the most natural parallel call
        scenario = next((s for s in SCENARIOS if s[0] == steps[0][0]), None)
        if scenario:
            steps = [steps[0]] + [draw(maker, scenario) for _ in steps[1:]]
            schemas = {steps[0][0]: CATALOGUE[steps[0][0]]}
    for _ in range(maker.pick([0, 0, 1, 2, 3, 4])):  # tools that are not needed
        other = maker.pick(list(CATALOGUE))
        rivals = {"read": "read_file", "read_file": "read", "bash": "list_files", "list_files": "bash", "calculator": "sum_numbers"}
        if rivals.get(other) not in schemas:
            schemas.setdefault(other, CATALOGUE[other])
    names = list(schemas)
    rng.shuffle(names)
    tools = pretty({name: schemas[name] for name in names})

    if kind > 0.92:  # the tool that it would take is not there
        scenario = maker.pick(SCENARIOS)
        name, request, *_ = draw(maker, scenario)
        rivals = {name, "bash", "read", "read_file", "list_files", "calculator", "search", "send_email", "send_message",
                  "get_weather", "get_forecast"}
        tools = [tool for tool in tools if tool["name"] not in rivals]
        if not tools:
            tools = pretty({"roll_dice": CATALOGUE["roll_dice"]}) if name != "roll_dice" else pretty({"get_order": CATALOGUE["get_order"]})
        if name == "calculator":
            return tool_conversation(maker)
        return ([user(request), says(MISSING, f"The user wants something that needs {name}. I only have "
                                     f"{', '.join(tool['name'] for tool in tools)}. I cannot do that.")], tools, [])
    if kind > 0.82:  # no tool is needed
        messages, _, expect = maker.pick([maker.small_talk, maker.fact, maker.fact])()
        for message in messages:
            if message["role"] == "assistant":
                message["reasoning"] = "No tool is needed. " + message["reasoning"]
        return messages, tools, expect

    def call_turns(steps, request, first_id):
        calls = [{"id": f"call_{first_id + at}", "name": step[0], "arguments": step[2]} for at, step in enumerate(steps)]
        wanted = " and ".join(f"{step[0]} with " + ", ".join(f"{key} {spoken(value)}" for key, value in step[2].items())
                              for step in steps)
        call = {"role": "assistant", "content": "", "reasoning": f"I will call {wanted}.", "calls": calls}
        results = [{"role": "tool", "call_id": c["id"], "content": step[3]} for c, step in zip(calls, steps)]
        rng.shuffle(results)
        answer = says(" ".join(step[4] for step in steps), "I have the result.")
        return [user(request), call] + results + [answer]

    requests = [step[1] for step in steps]
    if count > 1 and steps[0][0] == steps[1][0] == "get_weather" and count == 2:
        requests = [maker.pick(["What is the weather in {a} and in {b}?", "Compare the weather in {a} and {b}.",
                                "How is the weather in {a} and {b}?"]).format(a=steps[0][2]["city"], b=steps[1][2]["city"])]
    request = requests[0]
    for more in requests[1:]:
        request += maker.pick([" Also: ", " And then: ", " ", " And: "]) + more
    messages = call_turns(steps, request, 1)
    expect = [{"name": step[0], "arguments": step[2]} for step in steps]
    if kind > 0.72:  # and another request later
        if rng.random() < 0.5 and any(s[0] in schemas for s in SCENARIOS):
            step = draw(maker, maker.pick([s for s in SCENARIOS if s[0] in schemas]))
            messages += call_turns([step], step[1], 10)
        else:
            messages += maker.small_talk()[0]
    return messages, tools, expect
