/* Shows the AsyncAPI document beside this page. Every text reaches the page as text. */

/** An element with attributes and children; a child that is no node is text. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A JSON schema's type in a word or two. */
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
  const head = ["Field", "Type", "There"].map((word) => el("th", { scope: "col" }, word));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

function message(one) {
  const examples = (one.examples ?? []).map(({ payload }) => el("pre", {}, JSON.stringify(payload, null, 2)));
  return el("div", {}, el("h3", {}, one.title), el("div", { class: "scroll" }, fields(one.payload)), ...examples);
}

function channel(name, one, operations) {
  const doing = operations.find(({ channel: { $ref } }) => $ref === `#/channels/${name}`);
  return el("section", { class: "panel prose", "aria-labelledby": name },
    el("h2", { id: name }, `${doing.action === "receive" ? "Hears" : "Says"} `, el("code", {}, one.address)),
    el("p", {}, one.description),
    ...Object.values(one.messages).map(message),
  );
}

const answer = await fetch("docs/asyncapi.json");
const contract = await answer.json();
document.getElementById("version").textContent = contract.info.version;
document.getElementById("channels").replaceChildren(
  ...Object.entries(contract.channels).map(([name, one]) => channel(name, one, Object.values(contract.operations))),
);
