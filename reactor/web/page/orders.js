// Orders: only if the server accepts them, with the token; each is confirmed.

import { give } from "./server.js";
import { lookAtEverything } from "./sources.js";
import { status } from "./status.js";
import { $, el, known, write } from "./text.js";

export let ordersTaken = false;

const ORDERS = {
  pause: { title: "Pause all deleting?", what: "Every replica stops before its next fence, until somebody resumes. Zombies stay meanwhile." },
  resume: { title: "Let deleting go on?", what: "What is due falls at once." },
  protect: { title: "Protect this stream?", what: "Nothing drains it, whatever is said of its job, until the protection is taken away." },
  unprotect: { title: "Take the protection away?", what: "It is judged like any other: where its job is over, it falls at once." },
  restore: { title: "Restore this stream?", what: "From its newest backup on the worker's machine, or empty where there is none. It is protected then." },
};

export function showOrders(taken) {
  ordersTaken = taken ?? ordersTaken;
  const paused = known(status?.pause);
  $("pause").hidden = !ordersTaken;
  write($("pause"), paused ? "Resume deleting" : "Pause deleting");
}

/** Asks who and why, and then gives the order; what comes of it is in the answer's words. */
export function confirmOrder(kind, name = "", after = () => {}, more = {}) {
  const { title, what } = ORDERS[kind];
  const dialog = $("order");
  write($("order-title"), name ? `${title.slice(0, -1)}: ${name}?` : title);
  write($("order-what"), what);
  write($("order-failed"), "");
  write($("order-go"), title.split(" ")[0]);
  $("order-reason").value = "";
  dialog.returnValue = "no";
  const go = async (event) => {
    event.preventDefault();
    if (!$("order-by").reportValidity()) return;
    $("order-go").disabled = true;
    try {
      await give(`api/orders/${kind}${name ? `/${encodeURIComponent(name)}` : ""}`, { by: $("order-by").value, reason: $("order-reason").value, ...more });
      dialog.close("yes");
      lookAtEverything();
      after();
    } catch (error) {
      write($("order-failed"), error.message);
    } finally {
      $("order-go").disabled = false;
    }
  };
  $("order-go").onclick = go;
  dialog.showModal();
}

export function orderButton(kind, name, after, more) {
  return el("button", { type: "button", onclick: () => confirmOrder(kind, name, after, more) }, kind[0].toUpperCase() + kind.slice(1));
}
