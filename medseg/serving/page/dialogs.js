// The model card, and the question for a token. Escape closes both, as a browser does by itself.
import { byId } from "./elements.js";
import { cardOf } from "./card.js";
import { say } from "./words.js";

export function showCard(model) {
  byId("card-text").replaceChildren(...(model?.card ? cardOf(model.card) : [say("no_card")]));
  byId("card").showModal();
  byId("card-text").scrollTop = 0;
}

/** The token that is typed in; "" where the user has none. */
export function askForToken(wrong) {
  const dialog = byId("token"), field = byId("token-text");
  byId("token-wrong").hidden = !wrong;
  field.value = "";
  dialog.returnValue = "";
  let given = "";
  return new Promise((done) => {
    dialog.querySelector("form").onsubmit = () => { given = field.value; };
    dialog.addEventListener("close", () => { field.value = ""; done(given); }, { once: true });
    dialog.showModal();
    field.focus();
  });
}

export function listenToButtons() {
  byId("card-close").addEventListener("click", () => byId("card").close());
  byId("token-cancel").addEventListener("click", () => byId("token").close());
}
