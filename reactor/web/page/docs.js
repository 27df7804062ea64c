// Shows the AsyncAPI document. Every text reaches the page as text, never as HTML.

/** Returns an element with attributes and children. A child that is no node is text. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Returns the type of a JSON schema, as text. */
function kind(rule) {
  if (rule.anyOf) return rule.anyOf.map(kind).join(" or ");
  return rule.type ?? "anything";
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, rule]) =>
    el("tr", {},
      el("td", {}, el("code", {}, name)),
      el("td", {}, kind(rule)),
      el("td", {}, schema.required?.includes(name) ? "always" : "may be left out"),
    ));
  const head = ["Field", "Type", "Present"].map((title) => el("th", { scope: "col" }, title));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

function message(item) {
  const examples = (item.examples ?? []).map(({ payload }) => el("pre", {}, JSON.stringify(payload, null, 2)));
  return el("div", {}, el("h3", {}, item.title), el("div", { class: "scroll" }, fields(item.payload)), ...examples);
}

function channel(name, item, operations) {
  const operation = operations.find(({ channel: { $ref } }) => $ref === `#/channels/${name}`);
  return el("section", { class: "panel prose", "aria-labelledby": name },
    el("h2", { id: name }, `${operation.action === "receive" ? "Receives" : "Sends"} `, el("code", {}, item.address)),
    el("p", {}, item.description),
    ...Object.values(item.messages).map(message),
  );
}

const response = await fetch("docs/asyncapi.json");
const contract = await response.json();
document.getElementById("version").textContent = contract.info.version;
document.getElementById("channels").replaceChildren(
  ...Object.entries(contract.channels).map(([name, item]) => channel(name, item, Object.values(contract.operations))),
);
