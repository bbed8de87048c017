// A conversation to a request of /v1/chat/completions, and its stream to changes of the answer.

/** What goes wrong on the way, in words for a person. `status` is that of HTTP, 0 when there was none. */
export class ChatError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function headersFor(settings) {
  return settings.key ? { Authorization: `Bearer ${settings.key}` } : {};
}

/** The body of the request for the next answer. */
export function requestFor(session, settings) {
  const messages = [];
  if (settings.system) messages.push({ role: 'system', content: settings.system });
  for (const one of session.messages) {
    if (one.role === 'user') messages.push({ role: 'user', content: one.text });
    else if (one.role === 'tool') messages.push({ role: 'tool', tool_call_id: one.call, content: one.text });
    else if (one.text || one.calls?.length) messages.push(assistantMessage(one));
  }
  const body = { model: 'ds4', messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ['temperature', 'top_p', 'min_p', 'seed', 'max_tokens']) {
    if (typeof settings[name] === 'number') body[name] = settings[name];
  }
  if (settings.thinking) body.reasoning_effort = settings.thinking;
  if (settings.tools) body.tools = JSON.parse(settings.tools);
  return body;
}

function assistantMessage(message) {
  const out = { role: 'assistant', content: message.text || null };
  if (message.reasoning) out.reasoning_content = message.reasoning;
  if (message.calls?.length) {
    out.tool_calls = message.calls.map(({ id, name, arguments: text }) => {
      return { id, type: 'function', function: { name, arguments: text } };
    });
  }
  return out;
}

/** Streams into `message` and calls `changed` after each piece. Throws a ChatError; an abort ends it quietly. */
export async function streamAnswer(message, body, settings, signal, changed) {
  let response;
  try {
    response = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headersFor(settings) },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal.aborted) return;
    throw new ChatError('The server cannot be reached.');
  }
  if (!response.ok) throw await errorOf(response);
  let complete = false;
  try {
    for await (const data of events(response.body)) {
      if (data === '[DONE]') {
        complete = true;
        break;
      }
      const piece = JSON.parse(data);
      if (piece.error) throw new ChatError(piece.error.message ?? 'The server failed.');
      if (piece.choices?.[0]?.finish_reason) message.finish = piece.choices[0].finish_reason;
      apply(message, piece);
      changed();
    }
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof ChatError ? error : new ChatError('The connection was lost.');
  }
  if (!complete && !signal.aborted) throw new ChatError('The connection ended before the answer did.');
}

async function errorOf(response) {
  let text = '';
  try {
    text = (await response.json()).error?.message ?? '';
  } catch {
    // A proxy's page, perhaps: its status has to do.
  }
  if (response.status === 429) text = 'The server is busy: too many requests are waiting. Try again in a moment.';
  return new ChatError(text || `The server answered with status ${response.status}.`, response.status);
}

function apply(message, piece) {
  const delta = piece.choices?.[0]?.delta;
  if (delta?.reasoning_content) {
    message.reasoning += delta.reasoning_content;
    message.thoughtUntil = Date.now();
  }
  if (delta?.content) message.text += delta.content;
  for (const part of delta?.tool_calls ?? []) {
    const call = (message.calls[part.index] ??= { id: '', name: '', arguments: '' });
    if (part.id) call.id = part.id;
    if (part.function?.name) call.name = part.function.name;
    call.arguments += part.function?.arguments ?? '';
  }
  if (piece.usage) {
    message.usage = {
      prompt: piece.usage.prompt_tokens,
      cached: piece.usage.prompt_tokens_details?.cached_tokens ?? 0,
      answer: piece.usage.completion_tokens,
      speed: piece.timings?.predicted_per_second ?? 0,
    };
  }
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data: ')) yield line.slice(6).trimEnd();
    }
  }
}
