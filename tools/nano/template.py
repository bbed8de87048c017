"""The family's chat template: messages to one text, cut into segments that say which parts the model learns to write.

A message is a dict: role (system, user, assistant, tool, developer, latest_reminder), content; an assistant may have
reasoning and calls ([{id, name, arguments}]), a tool message names its call (call_id). `python3 template.py` checks the
published examples. Standard library only.
"""

import json

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
REMINDER = "<｜latest_reminder｜>"

MAX_EFFORT = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, "
    "and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n")

TOOLS = """## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{SCHEMAS}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""


def as_json(value):
    return json.dumps(value, ensure_ascii=False)


def tools_block(tools):
    return TOOLS.replace("{SCHEMAS}", "\n".join(as_json(tool) for tool in tools))


def calls_part(calls):
    """The DSML block of an assistant message."""
    invokes = []
    for call in calls:
        parameters = []
        for key, value in call["arguments"].items():
            is_text = isinstance(value, str)
            parameters.append(f'<｜DSML｜parameter name="{key}" string="{"true" if is_text else "false"}">'
                              f"{value if is_text else as_json(value)}</｜DSML｜parameter>")
        invokes.append(f'<｜DSML｜invoke name="{call["name"]}">\n' + "\n".join(parameters) + "\n</｜DSML｜invoke>")
    return "\n\n<｜DSML｜tool_calls>\n" + "\n".join(invokes) + "\n</｜DSML｜tool_calls>"


def merge_blocks(messages):
    """Tool results and adjacent user messages become blocks of one user message."""
    merged = []
    for message in messages:
        if message["role"] in ("tool", "user"):
            is_tool = message["role"] == "tool"
            block = ("tool_result", message.get("call_id"), message["content"]) if is_tool else ("text", None, message["content"])
            if merged and merged[-1]["role"] == "user" and not merged[-1].get("task"):
                merged[-1]["blocks"].append(block)
            else:
                merged.append({"role": "user", "blocks": [block], "task": message.get("task")})
        else:
            merged.append(dict(message))
    order = {}
    for message in merged:
        if message["role"] == "assistant" and message.get("calls"):
            order = {call.get("id"): at for at, call in enumerate(message["calls"])}
        elif message["role"] == "user":
            slots = [at for at, block in enumerate(message["blocks"]) if block[0] == "tool_result"]
            if len(slots) > 1:
                results = sorted((message["blocks"][at] for at in slots), key=lambda block: order.get(block[1], 0))
                for at, block in zip(slots, results):
                    message["blocks"][at] = block
    return merged


def render(messages, tools=(), thinking=False, max_effort=False, drop=True):
    """[(text, learned)] of the whole conversation. With an assistant message last, its end-of-sentence is the end;
    otherwise the text ends where the model is to write."""
    messages = merge_blocks(messages)
    drop = drop and not tools
    turns = [at for at, message in enumerate(messages) if message["role"] in ("user", "developer")]
    last = turns[-1] if turns else -1
    if thinking and drop:
        messages = [message for at, message in enumerate(messages) if at >= last or message["role"] != "developer"]
        turns = [at for at, message in enumerate(messages) if message["role"] in ("user", "developer")]
        last = turns[-1] if turns else -1
    out = [(BOS + (MAX_EFFORT if thinking and max_effort else ""), False)]
    tools_left = list(tools)
    if tools_left and not any(message["role"] in ("system", "developer") for message in messages):
        messages.insert(0, {"role": "system", "content": ""})
        last += 1
    for at, message in enumerate(messages):
        role = message["role"]
        if role in ("system", "developer"):
            text = (USER if role == "developer" else "") + message["content"]
            if tools_left:
                text += "\n\n" + tools_block(tools_left)
                tools_left = []
            out.append((text, False))
        elif role == "user":
            blocks = [f"<tool_result>{block[2]}</tool_result>" if block[0] == "tool_result" else block[2]
                      for block in message["blocks"]]
            out.append((USER + "\n\n".join(blocks), False))
        elif role == "latest_reminder":
            out.append((REMINDER + message["content"], False))
        else:
            text = ""
            if thinking and not (at and messages[at - 1].get("task")) and (not drop or at > last):
                text = message.get("reasoning", "") + "</think>"
            text += message.get("content", "")
            if message.get("calls"):
                text += calls_part(message["calls"])
            out.append((text + EOS, message.get("learn", True)))
        following = messages[at + 1]["role"] if at + 1 < len(messages) else None
        if following not in (None, "assistant", "latest_reminder"):
            continue
        task = message.get("task")
        if task and task != "action":
            out.append((f"<｜{task}｜>", False))
        elif role in ("user", "developer") or task == "action":
            opened = thinking and (not drop or at >= last)
            out.append((ASSISTANT + ("<think>" if opened else "</think>") + ("<｜action｜>" if task else ""), False))
    return out


def text_of(segments):
    return "".join(text for text, _ in segments)


def check():
    """The worked examples of the specification."""
    def user(text, **more):
        return {"role": "user", "content": text, **more}

    def says(text, **more):
        return {"role": "assistant", "content": text, **more}
    system = {"role": "system", "content": "S"}
    talk = [system, user("U1"), says("A1", reasoning="R1"), user("U2")]
    short = {"B": BOS, "E": EOS, "U": USER, "A": ASSISTANT, "L": REMINDER}

    def expect(got, want):
        want = "".join(short.get(word, word) for word in want.split(" "))
        assert text_of(got) == want, (text_of(got), want)
    expect(render(talk, thinking=True), "B S U U1 A </think> A1 E U U2 A <think>")
    expect(render(talk), "B S U U1 A </think> A1 E U U2 A </think>")
    expect(render(talk, thinking=True, drop=False), "B S U U1 A <think> R1 </think> A1 E U U2 A <think>")
    expect(render([user("U1", task="action")]), "B U U1 A </think> <｜action｜>")
    expect(render([user("U1", task="action")], thinking=True), "B U U1 A <think> <｜action｜>")
    expect(render([user("U1"), says("a", task="title")]), "B U U1 A </think> a E <｜title｜>")
    expect(render([{"role": "latest_reminder", "content": "D"}, user("U1")]), "B L D U U1 A </think>")
    expect(render([user("U1", task="query"), says("q1")], thinking=True), "B U U1 <｜query｜> q1 E")
    expect(render([user("U1"), user("U2")]), "B U U1\n\nU2 A </think>")
    expect(render([user("U1"), {"role": "system", "content": "S2"}, user("U2")]), "B U U1 S2 U U2 A </think>")
    calls = [{"id": "a", "name": "get_weather", "arguments": {"city": "Rome", "days": 2}},
             {"id": "b", "name": "get_weather", "arguments": {"city": "Bari", "opts": {"u": "C", "l": [1, 2]}}}]
    got = text_of(render([{"role": "system", "content": "Be brief."}, user("Rome?"),
                          says("Checking.", reasoning="Need data.", calls=calls),
                          {"role": "tool", "call_id": "b", "content": '{"t":19}'},
                          {"role": "tool", "call_id": "a", "content": '{"t":21}'}], [{"name": "x"}], thinking=True))
    want = (USER + "Rome?" + ASSISTANT + """<think>Need data.</think>Checking.

<｜DSML｜tool_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>
</｜DSML｜invoke>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Bari</｜DSML｜parameter>
<｜DSML｜parameter name="opts" string="false">{"u": "C", "l": [1, 2]}</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜tool_calls>""" + EOS + USER + '<tool_result>{"t":21}</tool_result>\n\n<tool_result>{"t":19}</tool_result>'
            + ASSISTANT + "<think>")
    assert got.endswith(want), got
    assert got.startswith(BOS + "Be brief.\n\n## Tools\n")
    print("template: all examples agree")


if __name__ == "__main__":
    check()
