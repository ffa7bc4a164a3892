"use strict";
const cards = [...document.querySelectorAll(".card")];
const form = document.getElementById("filters");

function wanted() {
  const values = new FormData(form);
  return {flip: values.get("flip"), action: values.get("action"), text: values.get("text").trim().toLowerCase()};
}

function show() {
  const {flip, action, text} = wanted();
  let shown = 0;
  for (const card of cards) {
    const fits = (flip === "all" || card.dataset.flip === flip)
      && (action === "any" || card.dataset.actions.split(" ").includes(action))
      && (!text || card.textContent.toLowerCase().includes(text));
    card.hidden = !fits;
    shown += fits;
  }
  document.getElementById("count").textContent = `${shown} of ${cards.length} shown`;
  document.getElementById("empty").hidden = shown > 0;
}

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["flip", "action"]) {
    const input = [...form.elements[name]].find((one) => one.value === (given.get(name) ?? form.elements[name][0].value));
    if (input) input.checked = true;
  }
  form.elements.text.value = given.get("text") ?? "";
}

form.addEventListener("input", () => {
  history.replaceState(null, "", `#${new URLSearchParams(wanted())}`);
  show();
});
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { readHash(); show(); });
readHash();
show();
