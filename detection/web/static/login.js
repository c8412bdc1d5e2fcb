// Exchanges the token, from the form or from a link's #token=…, for the cookie that the page needs.
"use strict";

const field = document.getElementById("token");
const problem = document.getElementById("status");

async function enter(token) {
  problem.textContent = "";
  try {
    const answer = await fetch("/login", {
      method: "POST", body: JSON.stringify({ token }), headers: { "X-Requested-By": "detect" },
    });
    if (answer.ok) return location.replace("/");
    problem.textContent = `Not logged in: ${(await answer.json()).error}.`;
  } catch {
    problem.textContent = "The server does not answer.";
  }
  field.focus();
  field.select();
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});

function follow() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  history.replaceState(null, "", "/login"); // the token does not stay in the address bar
  enter(token);
  return true;
}

addEventListener("hashchange", follow);
if (!follow()) {
  // who follows a link from another site arrives without the cookie, but has it
  fetch("/results").then((answer) => { if (answer.ok) location.replace("/"); });
}
