// The server's API: one model, one picture at a time, a token where it asks for one.
import { recall, remember } from "./elements.js";

const SHORTEST_S = 1, LONGEST_S = 60;  // of a wait: what a wrong Retry-After can do

/** Why there is no answer. status: HTTP's, or "unreachable"; reason: the server's own words, or a function that says the
 * page's in its present language; wait_s: when it wants to be asked again. */
export class Refusal extends Error {
  constructor(status, reason = "", wait_s = null) {
    super(String(status));
    Object.assign(this, { status, reason, wait_s });
  }
}

let askUser = async () => "";
let asked = null;  // two uploads that lack the token ask for it once

/** ask(wrong: Boolean) -> the token, "" where the user has none. */
export const setTokenPrompt = (ask) => { askUser = ask; };

export const askModel = () => request("v1/model", {});

export const segment = (file, signal) => send("v1/segment", file, signal);

/** labelme's JSON, which takes the server longer than the answer that is shown, so that it is asked for when it is saved. */
export async function outlinesOf(file) {
  for (;;) {
    try {
      return await send("v1/segment?result=labelme", file);
    } catch (error) {
      if (!error.wait_s) throw error;
      await new Promise((done) => { setTimeout(done, 1000 * error.wait_s); });
    }
  }
}

function send(path, file, signal) {
  const body = new FormData();
  body.append("image", file, "image");  // not the file's own name, which may be a patient's
  return request(path, { method: "POST", body, signal });
}

async function request(path, options) {
  const token = recall("medseg-token"), answer = await sent(path, options, token);
  if (answer.ok) return answer.json();
  const refusal = await refusalOf(answer);
  if (refusal.status !== 401 || !await newToken(token)) throw refusal;
  return request(path, options);
}

async function sent(path, options, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    return await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("unreachable");
  }
}

async function newToken(refused) {
  if (recall("medseg-token") !== refused) return true;  // given meanwhile
  asked ??= askUser(refused !== "").finally(() => { asked = null; });
  const given = (await asked).trim();
  if (/^[\x21-\x7e]+$/.test(given)) remember("medseg-token", given);
  return given !== "";
}

async function refusalOf(answer) {
  const { rule = "", fix = "" } = (await answer.json().catch(() => ({})))?.error ?? {};
  const busy = answer.status === 429 || (answer.status === 503 && answer.headers.has("Retry-After"));
  const reason = [rule, fix].filter(Boolean).map(sentence).join(" ");
  return new Refusal(answer.status, reason, busy ? waitOf(answer.headers.get("Retry-After")) : null);
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;

function waitOf(header) {
  const seconds = /^\d+$/.test(header ?? "") ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Math.min(LONGEST_S, Math.max(SHORTEST_S, Math.ceil(seconds) || 0));
}
