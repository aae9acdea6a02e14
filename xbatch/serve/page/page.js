// The page of `xbatch serve`: it asks the server how it is, and talks to its model.
// Whatever comes from outside goes in as text, never as markup.
"use strict";

const STATUS_MS = 2000;
const BATCHES_MS = 5000;
const TIMEOUT_MS = 10000;
const SPARK_MS = 120000;
const SHOWN_ERRORS = 3;
// The server looks at a batch's input until it has found so many.
const MOST_ERRORS = 100;

const $ = (id) => document.getElementById(id);
const count = (n) => Number(n ?? 0).toLocaleString("en");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Texts are set only where they differ, so that nothing is read aloud twice or loses its selection. */
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return plural(s, "second");
  if (s < 5400) return plural(Math.round(s / 60), "minute");
  return s < 129600 ? plural(Math.round(s / 3600), "hour") : plural(Math.round(s / 86400), "day");
}

// Asking the server.

/** An answer that is none; the message is for the reader. */
class Refused extends Error {}

const inWords = (error) => (error instanceof Refused ? error.message : "The server does not answer.");

let key = sessionStorage.getItem("xbatch-key") ?? "";
let wantsKey = false;

async function ask(path, options = {}) {
  const sent = key;
  const headers = { ...options.headers, ...(sent && { Authorization: `Bearer ${sent}` }) };
  const response = await fetch(path, { cache: "no-store", ...options, headers });
  // There may be another key by now.
  if (response.status === 401 && sent === key) askForKey();
  if (!response.ok) throw new Refused(await trouble(response));
  return response;
}

async function trouble(response) {
  const body = await response.json().catch(() => null);
  const said = body?.error?.message ?? body?.detail;
  const words = [sentence(typeof said === "string" && said ? said : `the server answered ${response.status}`)];
  const after = response.headers.get("Retry-After");
  const seconds = Number.isNaN(Number(after)) ? (Date.parse(after) - Date.now()) / 1000 : Number(after);
  if (after && !Number.isNaN(seconds)) words.push(`Try again in ${duration(Math.max(1, seconds))}.`);
  return words.join(" ");
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function askForKey() {
  put($("key-label"), key ? "The server refused this API key." : "This server wants an API key.");
  showState("locked", "");
  wantsKey = true;
  if (!$("key-form").hidden) return;
  $("key-form").hidden = false;
  $("key").focus();
}

function keepKey(value) {
  key = value;
  if (key) sessionStorage.setItem("xbatch-key", key);
  else sessionStorage.removeItem("xbatch-key");
  $("forget").hidden = !key;
  wantsKey = false;
  $("key-form").hidden = true;
  pollAll();
}

/** Call `step` now and then again and again, except while nobody looks or a key is wanted. */
function polling(step, pause) {
  let timer = 0;
  let [busy, again] = [false, false];
  return async function poll() {
    clearTimeout(timer);
    again = busy;
    if (busy || document.hidden || wantsKey) return;
    busy = true;
    await step();
    busy = false;
    timer = setTimeout(poll, again ? 0 : pause);
  };
}

// What is served, and the figures.

let served = { abilities: [] };
let cards = null;
let before = null;
const rates = [];

/** What a model can do is not known before it is loaded. */
const canChat = () => !served.abilities.length || served.abilities.includes("chat");

async function askStatus() {
  try {
    const options = { signal: AbortSignal.timeout(TIMEOUT_MS) };
    const status = await (await ask("status", options)).json();
    cards ??= await ask("v1/models", options).then((response) => response.json(), () => null);
    showStatus(status);
  } catch (error) {
    if (wantsKey) return;
    showState("gone", `${inWords(error)} This page asks again every ${STATUS_MS / 1000} seconds.`);
  }
}

function showState(state, notice) {
  $("state").dataset.state = state;
  put($("state"), state === "gone" ? "no answer" : state);
  document.body.classList.toggle("stale", state === "gone");
  $("notice").hidden = !notice;
  put($("notice"), notice);
}

function showStatus(status) {
  served = status;
  const { requests, tokens, engine, batches } = status;
  showState(engine.state, engine.state === "failed" ? "The engine has failed, and requests are refused." : "");
  put($("version"), status.version);
  put($("model"), status.model);
  document.title = `${status.model} · xbatch`;
  const restarts = engine.restarts ? ` Restarted ${engine.restarts === 1 ? "once" : `${engine.restarts} times`}.` : "";
  put($("engine"), `${engine.description ?? ""}${restarts}`);
  for (const name of ["running", "waiting", "completed", "failed"]) put($(name), count(requests[name]));
  for (const name of ["in_flight", "waiting", "completed", "failed"]) put($(`rows-${name}`), count(batches.rows[name]));
  $("failed").classList.toggle("some", requests.failed > 0);
  $("rows-failed").classList.toggle("some", batches.rows.failed > 0);
  const spent = ({ prompt, completion }) => `${count(prompt)} tokens read, ${count(completion)} written`;
  const up = `Up for ${duration(status.uptime_s)}.`;
  put($("tokens"), `Online: ${spent(tokens)}. Batches: ${spent(batches.tokens)}. ${up}`);
  put($("batches-running"), batches.running ? `${count(batches.running)} running` : "");
  showModels(status);
  showRate(status);
}

function showModels(status) {
  if ($("abilities").textContent !== status.abilities.join(""))
    $("abilities").replaceChildren(...status.abilities.map((name) => make("li", { textContent: name })));
  const card = cards?.data?.find((each) => each.id === status.model) ?? {};
  const size = card.model_size_in_billions;
  const formats = [...new Set([card.model_format, card.quantization])];
  const facts = [
    ["Context", status.context_length && plural(status.context_length, "token")],
    ["Size", size && (size < 1 ? `${count(size * 1000)} million parameters` : `${count(size)} billion parameters`)],
    ["Format", formats.filter((each) => each && each !== "none").join(", ")],
    ["Revision", card.model_revision ?? card.revision],
  ].filter(([, fact]) => fact);
  const shown = ([name, fact]) => make("div", {}, make("dt", {}, name), make("dd", {}, fact));
  if ($("facts").textContent !== facts.flat().join("")) $("facts").replaceChildren(...facts.map(shown));
  const names = cards?.data?.map((each) => each.id) ?? [];
  $("choice").hidden = names.length < 2;
  if ($("models").textContent !== names.join(""))
    $("models").replaceChildren(...names.map((name) => make("option", {}, name)));
  const chats = canChat();
  put($("chat-title"), chats ? "Chat" : "Completion");
  put($("text-label"), chats ? "Message" : "Prompt");
  $("text").placeholder = chats ? "Message" : "Prompt: the model goes on where it ends";
  $("system-label").hidden = !chats;
}

function showRate(status) {
  const now = { written: status.tokens.completion + status.batches.tokens.completion, uptime: status.uptime_s };
  const seconds = before ? now.uptime - before.uptime : 0;
  // A server that has started again counts from zero.
  if (seconds > 0) rates.push({ at: Date.now(), rate: Math.max(0, now.written - before.written) / seconds });
  before = now;
  while (rates.length && rates[0].at < Date.now() - SPARK_MS) rates.shift();
  if (!rates.length) return;
  const last = rates.at(-1);
  const most = Math.max(...rates.map((each) => each.rate));
  const rounded = (rate) => (rate < 10 ? rate.toFixed(1) : count(Math.round(rate)));
  put($("rate"), rounded(last.rate));
  put($("most"), `most ${rounded(most)}`);
  const x = ({ at }) => (120 - ((last.at - at) * 120) / SPARK_MS).toFixed(2);
  const y = ({ rate }) => (38 - (rate * 35) / Math.max(most, 1)).toFixed(2);
  const line = rates.map((each) => `${x(each)} ${y(each)}`).join("L");
  $("line").setAttribute("d", `M${line}`);
  $("area").setAttribute("d", `M${x(rates[0])} 40L${line}L120 40Z`);
  const words = `now ${rounded(last.rate)}, most ${rounded(most)}`;
  $("spark").setAttribute("aria-label", `Tokens per second over the last two minutes: ${words}`);
}

// Batches.

const rows = new Map();

async function askBatches() {
  try {
    const list = await (await ask("v1/batches?limit=20", { signal: AbortSignal.timeout(TIMEOUT_MS) })).json();
    const known = list.data.map((batch) => showBatch(batch));
    if (known.some((node, i) => $("batches").children[i] !== node) || known.length !== $("batches").children.length)
      $("batches").replaceChildren(...known);
    const note = list.has_more ? `The newest ${known.length}.` : "";
    put($("batches-note"), known.length ? note : "None yet: POST /v1/batches makes one.");
  } catch (error) {
    if (error instanceof Refused && !wantsKey) put($("batches-note"), error.message);
  }
}

function showBatch(batch) {
  if (!rows.has(batch.id)) rows.set(batch.id, newRow(batch));
  const { node, state, bar, counts, age, files, errors } = rows.get(batch.id);
  const { total = 0, completed = 0, failed = 0 } = batch.request_counts ?? {};
  state.dataset.state = bar.dataset.state = batch.status;
  put(state, batch.status.replaceAll("_", " "));
  if (total) [bar.max, bar.value] = [total, completed + failed];
  bar.hidden = !total && batch.status !== "validating";
  const settled = total ? `${count(completed + failed)} of ${plural(total, "request")}` : "";
  put(counts, failed ? `${settled}, ${count(failed)} failed` : settled);
  put(age, `${duration(Date.now() / 1000 - batch.created_at)} ago`);
  const links = [["Output", batch.output_file_id], ["Errors", batch.error_file_id]].filter(([, id]) => id);
  if (files.children.length !== links.length)
    files.replaceChildren(...links.map(([word, id]) => download(word, id, batch)));
  put(errors, mistakes(batch).join("\n"));
  return node;
}

/** The first errors of a batch, a line each, and how many more there are. */
function mistakes(batch) {
  const errors = batch.errors?.data ?? [];
  const told = ({ line, message }) => (line ? `Line ${line}: ${message}` : message);
  const lines = errors.slice(0, SHOWN_ERRORS).map(told);
  const more = errors.length - SHOWN_ERRORS;
  const least = errors.length < MOST_ERRORS ? "" : "at least ";
  return more > 0 ? [...lines, `And ${least}${count(more)} more: see /v1/batches/${batch.id}.`] : lines;
}

function newRow(batch) {
  const state = make("span", { className: "state" });
  const age = make("time", { className: "muted", dateTime: new Date(batch.created_at * 1000).toISOString() });
  age.title = new Date(batch.created_at * 1000).toLocaleString();
  const bar = make("progress", { ariaLabel: `Progress of ${batch.id}` });
  const [counts, files] = [make("span"), make("span", { className: "files" })];
  const errors = make("p", { className: "errors" });
  const top = make("div", { className: "top" }, make("code", { title: batch.endpoint }, batch.id), state);
  const bottom = make("div", { className: "top muted" }, counts, make("span", { className: "end" }, files, age));
  return { node: make("li", {}, top, bar, bottom, errors), state, bar, counts, age, files, errors };
}

function download(word, id, batch) {
  const name = `${batch.id}-${word.toLowerCase()}.jsonl`;
  const link = make("a", { href: `v1/files/${encodeURIComponent(id)}/content`, download: name }, word);
  // A link can't carry a key.
  link.addEventListener("click", async (event) => {
    if (!key || link.href.startsWith("blob:")) return;
    event.preventDefault();
    try {
      const url = URL.createObjectURL(await (await ask(link.href)).blob());
      make("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    } catch (error) {
      put($("batches-note"), inWords(error));
    }
  });
  return link;
}

// The conversation.

let turns = [];
let talking = null;

/** The data of each server-sent event; format: the HTML standard, "Server-sent events". */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // A CR that comes last may be the first half of a CRLF.
      const lines = (text + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      text = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) yield data.splice(0).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Pieces of text and of reasoning as they come, the usage and the reason why it ended. */
async function* answer(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const { error, usage, choices } = JSON.parse(data);
    if (error) throw new Refused(sentence(error.message ?? String(error)));
    const choice = choices?.[0];
    const delta = choice?.delta ?? { content: choice?.text };
    const thought = delta.reasoning ?? delta.reasoning_content ?? "";
    yield { text: delta.content ?? "", thought, usage, finish: choice?.finish_reason };
  }
  throw new Refused("The answer broke off.");
}

function request(text) {
  const body = { model: $("models").value || served.model, stream: true, stream_options: { include_usage: true } };
  const [temperature, most] = [$("temperature").value, $("max-tokens").value];
  if (temperature) body.temperature = Number(temperature);
  if (most) body.max_tokens = Number(most);
  if (!canChat()) return ["v1/completions", { ...body, prompt: text }];
  const said = (role, content) => ({ role, content });
  const messages = turns.flatMap((turn) => [said("user", turn.asked), said("assistant", turn.answered)]);
  if ($("system").value.trim()) messages.unshift(said("system", $("system").value));
  return ["v1/chat/completions", { ...body, messages: [...messages, said("user", text)] }];
}

function bubble(who, text) {
  const [name, said] = [make("p", { className: "who" }, who), make("p", { className: "said" }, text)];
  const [thought, note] = [make("p", { className: "thought" }), make("p", { className: "note muted" })];
  const isUser = who === "You";
  const parts = isUser ? [name, said] : [name, thought, said, note];
  $("talk").append(make("div", { className: isUser ? "turn you" : "turn" }, ...parts));
  $("talk").scrollTop = $("talk").scrollHeight;
  return { thought, said, note };
}

async function send() {
  const asked = $("text").value;
  if (!asked.trim() || talking) return;
  const stopping = new AbortController();
  talking = stopping;
  showTalking();
  bubble("You", asked);
  const [path, body] = request(asked);
  const { thought, said, note } = bubble(body.model ?? "Model", "");
  $("text").value = "";
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let [first, usage, finish, wrong] = [0, null, null, ""];
  try {
    for await (const piece of answer(path, body, stopping.signal)) {
      const isAtEnd = $("talk").scrollTop + $("talk").clientHeight > $("talk").scrollHeight - 40;
      if (piece.text || piece.thought) first ||= seconds();
      said.append(piece.text);
      thought.append(piece.thought);
      usage = piece.usage ?? usage;
      finish = piece.finish ?? finish;
      if (isAtEnd) $("talk").scrollTop = $("talk").scrollHeight;
    }
  } catch (error) {
    wrong = stopping.signal.aborted ? "Stopped." : inWords(error);
    note.classList.toggle("wrong", !stopping.signal.aborted);
  }
  const took = seconds();
  if (talking !== stopping) return; // cleared meanwhile
  talking = null;
  showTalking();
  const cut = finish === "length" ? "Cut off at the most tokens allowed." : "";
  put(note, [wrong, cut, figures(usage, first, took)].filter(Boolean).join(" "));
  // What got no answer can be sent again, and is no part of the conversation.
  if (said.textContent) turns.push({ asked, answered: said.textContent });
  else if (wrong && !$("text").value) $("text").value = asked;
  $("talk").scrollTop = $("talk").scrollHeight;
  if (!wantsKey) $("text").focus();
}

/** How long an answer took, its first token and the others. */
function figures(usage, first, took) {
  const words = [];
  if (usage) words.push(`${plural(usage.prompt_tokens, "token")} read, ${count(usage.completion_tokens)} written`);
  if (usage) words.push(` in ${took.toFixed(1)} s`);
  if (usage?.completion_tokens > 1 && took > first)
    words.push(`, ${((usage.completion_tokens - 1) / (took - first)).toFixed(0)} tokens/s`);
  if (first) words.push(`${usage ? ". " : ""}First token after ${first.toFixed(2)} s.`);
  return words.join("");
}

function showTalking() {
  $("talk").setAttribute("aria-busy", String(Boolean(talking)));
  $("empty").hidden = true;
  $("send").hidden = Boolean(talking);
  $("stop").hidden = !talking;
  $("clear").disabled = false;
}

function clear() {
  talking?.abort();
  [talking, turns] = [null, []];
  showTalking();
  $("empty").hidden = false;
  $("clear").disabled = true;
  $("talk").replaceChildren($("empty"));
  $("text").focus();
}

// What starts it all.

const polls = [polling(askStatus, STATUS_MS), polling(askBatches, BATCHES_MS)];
const pollAll = () => polls.forEach((poll) => poll());
document.addEventListener("visibilitychange", pollAll);
$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => talking?.abort());
$("clear").addEventListener("click", clear);
$("forget").addEventListener("click", () => keepKey(""));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = $("key").value.trim();
  $("key").value = "";
  // A header takes no other characters, and so no key has them.
  if (/^[\x21-\x7e]+$/.test(value)) keepKey(value);
  else put($("key-label"), "An API key has no spaces and no letters outside of ASCII.");
});
$("forget").hidden = !key;
pollAll();
