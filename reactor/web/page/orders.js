// Orders: only if the server accepts them, with the token. A person confirms each.

import { post } from "./server.js";
import { refreshAll } from "./sources.js";
import { state, watch } from "./state.js";
import { $, el, known, write } from "./text.js";

const ORDERS = {
  pause: { title: "Pause all deleting?", effect: "Every replica stops before its next fence, until somebody resumes. Zombies stay until then." },
  resume: { title: "Resume deleting?", effect: "Streams that are due are deleted at once." },
  protect: { title: "Protect this stream?", effect: "It is not deleted, whatever its job's status, until somebody removes the protection." },
  unprotect: { title: "Unprotect this stream?", effect: "It is judged like any other stream. If its job is over, it is deleted at once." },
  restore: { title: "Restore this stream?", effect: "It is restored from its newest backup, or empty if there is none. It is protected afterwards." },
};

watch(["status"], () => {
  $("pause").hidden = !state.ordersAccepted;
  write($("pause"), known(state.status.pause) ? "Resume deleting" : "Pause deleting");
});

/** Asks who and why, then sends the order. A failure is shown in the server's words. */
export function confirmOrder(kind, name = "", then = () => {}, options = {}) {
  const { title, effect } = ORDERS[kind];
  const dialog = $("order");
  write($("order-title"), name ? `${title.slice(0, -1)}: ${name}?` : title);
  write($("order-what"), effect);
  write($("order-failed"), "");
  write($("order-go"), title.split(" ")[0]);
  $("order-reason").value = "";
  dialog.returnValue = "no";
  $("order-go").onclick = async (event) => {
    event.preventDefault();
    if (!$("order-by").reportValidity()) return;
    $("order-go").disabled = true;
    try {
      const path = `api/orders/${kind}${name ? `/${encodeURIComponent(name)}` : ""}`;
      await post(path, { by: $("order-by").value, reason: $("order-reason").value, ...options });
      dialog.close("yes");
      refreshAll();
      then();
    } catch (error) {
      write($("order-failed"), error.message);
    } finally {
      $("order-go").disabled = false;
    }
  };
  dialog.showModal();
}

export function orderButton(kind, name, then, options) {
  return el("button", { type: "button", onclick: () => confirmOrder(kind, name, then, options) }, kind[0].toUpperCase() + kind.slice(1));
}
