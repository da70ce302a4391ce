// What a page does besides showing: its live parts, times that go on, keys, finding in a tree. All works without it but these.
"use strict";

(function () {
  const body = document.body;
  const base = body.dataset.base || "";
  const state = document.getElementById("state");

  // -- live parts: the server sends them as HTML; only what differs is changed, so that focus and selection stay.

  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      // what the reader has opened or gone to stays so
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
    }
    morphChildren(old, fresh);
  }

  function morphChildren(old, fresh) {
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    const named = new Map(before.filter((node) => node.id).map((node) => [node.id, node]));
    after.forEach((node, place) => {
      const known = node.id && named.get(node.id);
      if (known && known.parentNode === old && known !== old.childNodes[place]) old.insertBefore(known, old.childNodes[place] || null);
      const there = old.childNodes[place];
      if (!there) old.appendChild(node);
      else if (node.id && there.id !== node.id) old.insertBefore(node, there);
      else morph(there, node);
    });
    while (old.childNodes.length > after.length) old.lastChild.remove();
  }

  let source = null;
  let away = false;

  function say(text, bad) {
    if (!state) return;
    state.textContent = text;
    state.classList.toggle("away", Boolean(bad));
  }

  function listen() {
    if (source || body.dataset.live !== "yes" || document.hidden || !window.EventSource) return;
    source = new EventSource(window.location.pathname + window.location.search);
    source.addEventListener("parts", (event) => {
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        const there = document.getElementById(id);
        if (!there) continue;
        const holder = document.createElement("template");
        holder.innerHTML = html;
        morphChildren(there, holder.content);
      }
      if (!away) say("live");
      mark();
      seek();
    });
    source.addEventListener("away", (event) => {
      const said = JSON.parse(event.data);
      away = true;
      say(said.title, true);
      if (!said.again) stop();
    });
    source.addEventListener("back", () => { away = false; say("live"); });
    // A stream ends after some minutes by plan, and is asked for anew.
    source.addEventListener("ends", () => { stop(); window.setTimeout(listen, 200); });
    source.onopen = () => { doubt(false); if (!away) say("live"); };
    source.onerror = () => {
      doubt(true);
      if (source && source.readyState === EventSource.CLOSED) {
        stop();
        window.setTimeout(listen, 5000);
      }
    };
  }

  // A connection may be cut by whatever stands between; only where a new one does not come is it told.
  let doubts = 0;

  function doubt(has) {
    if (has && !doubts) doubts = window.setTimeout(() => say("The dashboard does not answer", true), 5000);
    if (!has) { window.clearTimeout(doubts); doubts = 0; }
  }

  function stop() {
    if (source) source.close();
    source = null;
  }

  function leave() {
    doubt(false);
    stop();
  }

  // A tab that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); else listen(); });
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", listen);
  listen();

  // -- times

  function span(seconds) {
    if (seconds < 10) return seconds.toFixed(1) + " s";
    if (seconds < 100) return seconds.toFixed(0) + " s";
    if (seconds < 6000) return (seconds / 60).toFixed(0) + " min";
    if (seconds < 172800) return (seconds / 3600).toFixed(0) + " h";
    return Math.round(seconds / 86400).toLocaleString("en") + " d";
  }

  window.setInterval(() => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.getAttribute("datetime"));
      if (Number.isNaN(at)) continue;
      const seconds = (Date.now() - at) / 1000;
      const text = seconds >= 0 ? span(seconds) + " ago" : "in " + span(-seconds);
      if (time.textContent !== text) time.textContent = text;
    }
  }, 5000);

  // -- keys

  let at = null;  // the id or the first link of the row that was gone to
  const rows = () => [...document.querySelectorAll("table.rows tbody tr")];
  const link = (row) => row.querySelector("a[href]");
  const place = (row) => (link(row) ? link(row).getAttribute("href") : "");

  function mark() {
    for (const row of rows()) row.classList.toggle("at", at !== null && place(row) === at);
  }

  function go(by) {
    const all = rows();
    if (!all.length) return;
    const now = all.findIndex((row) => place(row) === at);
    const next = all[Math.max(0, Math.min(all.length - 1, now < 0 ? (by > 0 ? 0 : all.length - 1) : now + by))];
    at = place(next);
    mark();
    next.scrollIntoView({ block: "nearest" });
    if (link(next)) link(next).focus({ preventScroll: true });
  }

  const PAGES = { o: "/", q: "/queues", i: "/instances", f: "/failures", m: "/machines", w: "/workers" };
  let gone = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.nodeName))) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const keys = document.getElementById("keys");
    if (event.key === "/") { const q = document.getElementById("q"); if (q) { q.focus(); event.preventDefault(); } }
    else if (event.key === "?") { if (keys && !keys.open) keys.showModal(); }
    else if (event.key === "j") go(1);
    else if (event.key === "k") go(-1);
    else if (event.key === "g") gone = Date.now();
    else if (Date.now() - gone < 1500 && PAGES[event.key]) window.location.assign(base + PAGES[event.key]);
  });

  // -- finding in a tree: what does not have the text is hidden

  function seek() {
    for (const input of document.querySelectorAll("input[data-find]")) {
      const wanted = input.value.trim().toLowerCase();
      const tree = document.getElementById(input.dataset.find);
      if (!tree) continue;
      for (const item of tree.querySelectorAll("li")) {
        const fits = !wanted || item.textContent.toLowerCase().includes(wanted) ||
          (item.parentElement.closest("li") && own(item.parentElement.closest("li")).includes(wanted));
        item.classList.toggle("missed", !fits);
        if (fits && wanted) { const inner = item.querySelector("details"); if (inner) inner.open = true; }
      }
    }
  }

  function own(item) {
    const name = item.querySelector(".name");
    return name ? name.textContent.toLowerCase() : "";
  }

  document.addEventListener("input", (event) => { if (event.target.dataset && event.target.dataset.find) seek(); });
})();
