// The reader of openapi.json: every route with its parameters, its body and a curl command. All text goes in as text.
// Format: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const $ = (id) => document.getElementById(id);
let api = {};

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const muted = (tag, text) => make(tag, { className: "muted" }, text);

/** What a `$ref` stands for; without one, the thing itself. */
function resolved(thing) {
  if (!thing?.$ref) return thing ?? {};
  const parts = thing.$ref.replace(/^#\//, "").split("/");
  const found = parts.reduce((at, part) => at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  return resolved(found);
}

const choices = (schema) => schema.anyOf ?? schema.oneOf;

/** A type in words: `array of string or null`. */
function typeOf(schema) {
  if (schema?.$ref) return resolved(schema).enum ? typeOf(resolved(schema)) : schema.$ref.split("/").at(-1);
  const { type, items, enum: values } = schema ?? {};
  if (values) return values.map((value) => JSON.stringify(value)).join(" | ");
  if (schema?.const !== undefined) return JSON.stringify(schema.const);
  if (choices(schema ?? {})) return [...new Set(choices(schema).map(typeOf))].join(" or ");
  if (schema?.allOf) return schema.allOf.map(typeOf).join(" and ");
  if (type === "array") return items ? `array of ${typeOf(items)}` : "array";
  if (schema?.format === "binary" || schema?.contentMediaType) return "file";
  return [type ?? "any"].flat().join(" or ");
}

/** The objects with named fields that lie in a schema, by name. */
function inside(schema) {
  const found = resolved(schema);
  if (schema?.$ref) return found.properties ? [[typeOf(schema), found]] : inside(found);
  return [schema?.items, ...(choices(schema ?? {}) ?? []), ...(schema?.allOf ?? [])].filter(Boolean).flatMap(inside);
}

function limits({ default: usual, minimum, maximum, maxLength, pattern }) {
  const facts = { default: usual, "at least": minimum, "at most": maximum, "longest": maxLength, pattern };
  return Object.entries(facts)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    .join(", ");
}

/** A line for each field; what a field is made of is looked up when it is opened, since schemas may hold themselves. */
function fields(named) {
  const lines = named.map(({ name, place, required, description, schema }) => {
    const said = [description ?? schema?.description, limits(schema ?? {})].filter(Boolean).join(" · ");
    const parts = inside(schema).map(([title, part]) => lazily(title, () => fields(properties(part))));
    const kind = [typeOf(schema), place, required && "required"].filter(Boolean).join(", ");
    const top = make("div", {}, make("code", {}, name), " ", muted("span", kind));
    return make("li", {}, top, said ? muted("p", said) : null, ...parts);
  });
  return make("ul", { className: "fields" }, ...lines);
}

function properties(schema) {
  return Object.entries(schema.properties ?? {}).map(([name, each]) => {
    return { name, schema: each, required: schema.required?.includes(name) };
  });
}

function lazily(title, content) {
  const details = make("details", {}, make("summary", {}, title));
  details.addEventListener("toggle", () => details.append(content()), { once: true });
  return details;
}

/** A value that a schema would take: its example, or its required fields. */
function example(schema, depth = 0) {
  const found = resolved(schema);
  if (found.example !== undefined) return found.example;
  if (found.examples?.length) return found.examples[0];
  if (found.default !== undefined && found.default !== null) return found.default;
  if (found.enum) return found.enum[0];
  if (found.const !== undefined) return found.const;
  const either = choices(found) ?? found.allOf;
  if (either) return example(either.find((each) => each.type !== "null") ?? either[0], depth + 1);
  if (found.type === "array") return found.items && depth < 6 ? [example(found.items, depth + 1)] : [];
  if (found.properties && depth < 6) {
    const wanted = Object.entries(found.properties).filter(([name]) => found.required?.includes(name));
    return Object.fromEntries(wanted.map(([name, each]) => [name, example(each, depth + 1)]));
  }
  return { string: "string", integer: 0, number: 0, boolean: false, object: {} }[[found.type].flat()[0]] ?? null;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(method, path, operation, content) {
  const open = path.replace(/^\//, "").replace(/\{([^}:]+)[^}]*\}/g, (_, name) => name.toUpperCase());
  const words = [`curl ${quoted(new URL(open, document.baseURI).href)}`];
  if (method !== "get" && !(method === "post" && content)) words.push(`-X ${method.toUpperCase()}`);
  // The document need not tell that there are keys; the page has one if it was asked for it.
  const wantsKey = (operation.security ?? api.security)?.length || sessionStorage.getItem("xbatch-key");
  if (wantsKey) words.push('-H "Authorization: Bearer $XBATCH_API_KEY"');
  const [type, { schema, example: shown, examples } = {}] = Object.entries(content ?? {})[0] ?? [];
  const body = shown ?? Object.values(examples ?? {})[0]?.value ?? example(schema);
  if (type?.startsWith("multipart/")) {
    for (const { name, schema: each } of properties(resolved(schema)).filter((field) => field.required)) {
      const value = typeOf(each) === "file" ? "@file.jsonl" : (body?.[name] ?? example(each));
      words.push(`-F ${quoted(`${name}=${value}`)}`);
    }
  } else if (type) words.push(`-H ${quoted(`Content-Type: ${type}`)}`, `-d ${quoted(JSON.stringify(body))}`);
  return words.join(" \\\n  ");
}

function part(title, ...content) {
  return [make("h3", {}, title), ...content];
}

function route(path, method, operation, shared) {
  const parameters = [...(shared ?? []), ...(operation.parameters ?? [])].map(resolved);
  const content = resolved(operation.requestBody).content;
  const details = make("details", { className: "card route", id: `${method}${path}` });
  const name = [make("span", { className: `method ${method}` }, method.toUpperCase()), make("code", {}, path)];
  details.append(make("summary", {}, ...name, muted("span", operation.summary ?? "")));
  details.append(make("p", { className: "about" }, operation.description ?? ""));
  const placed = parameters.map((each) => ({ ...each, place: each.in }));
  if (placed.length) details.append(...part("Parameters", fields(placed)));
  for (const [type, { schema }] of Object.entries(content ?? {})) {
    const named = resolved(schema).properties ? properties(resolved(schema)) : [{ name: "body", schema }];
    details.append(...part(`Body, ${type}`, fields(named)));
  }
  const answers = Object.entries(operation.responses ?? {}).map(([status, each]) => {
    return make("li", {}, make("code", {}, status), " ", muted("span", resolved(each).description ?? ""));
  });
  if (answers.length) details.append(...part("Answers", make("ul", { className: "fields" }, ...answers)));
  details.append(...part("Example", make("pre", { tabIndex: 0 }, curl(method, path, operation, content))));
  return details;
}

function show() {
  $("version").textContent = api.info?.version ?? "";
  $("about").textContent = api.info?.description ?? "";
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths ?? {}))
    for (const method of METHODS.filter((each) => item[each])) {
      const tag = item[method].tags?.[0] ?? "";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(route(path, method, item[method], item.parameters));
    }
  for (const [tag, routes] of groups)
    $("routes").append(make("section", {}, tag ? make("h2", {}, tag) : null, ...routes));
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named) named.open = true;
  named?.scrollIntoView();
}

fetch("openapi.json")
  .then(async (response) => {
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    api = await response.json();
    show();
  })
  .catch((error) => {
    $("notice").textContent = `openapi.json can't be shown: ${error.message}.`;
    $("notice").hidden = false;
  });
