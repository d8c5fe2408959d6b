"""How the page of features looks, and what little it does: style sheet and script, both put into the page itself."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e3e6eb; --paper: #f6f7f9; --card: #ffffff; --hue: 230, 110, 20;
  --accent: #0072b2; --up: #00795a; --down: #b5440f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b3; --line: #2c333f; --paper: #12161c; --card: #1a2029;
  --hue: 240, 130, 40; --accent: #56b4e9; --up: #3fc79c; --down: #f08a5d; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 5rem; }
body { margin: 0 auto; max-width: 1280px; padding: 0 1.5rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { padding: 2rem 0 .5rem; }
h1 { margin: 0; font-size: 1.6rem; letter-spacing: -.01em; }
header p { margin: .3rem 0 1rem; color: var(--soft); max-width: 75ch; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0; }
dt { font-size: .75rem; color: var(--soft); }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; align-items: center; gap: .6rem 1rem; margin: 1rem -1.5rem;
  padding: .7rem 1.5rem; background: var(--paper); border-bottom: 1px solid var(--line); }
input, select, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
input { padding: .35rem .7rem; width: 15rem; }
select { padding: .3rem .4rem; }
nav label, nav output { color: var(--soft); font-size: .87rem; }
nav output { margin-left: auto; font-variant-numeric: tabular-nums; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; }
.chip { padding: .2rem .7rem; border-radius: 99px; font-size: .87rem; cursor: pointer; }
.chip small { color: var(--soft); }
.chip[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--card); }
.chip[aria-pressed=true] small { color: inherit; }
.feature { display: grid; grid-template-columns: 17rem minmax(0, 1fr); gap: 0 1.8rem; margin: 0 0 1rem; padding: 1rem 1.3rem 1.1rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.feature[hidden] { display: none; }
.feature:target { border-color: var(--accent); }
h2 { margin: 0; font-size: 1.1rem; }
h2 a { color: inherit; text-decoration: none; }
.badges { margin: .15rem 0 0; }
.badge { display: inline-block; margin-right: .25rem; padding: 0 .5rem; border: 1px solid var(--line); border-radius: 99px;
  color: var(--soft); font-size: .72rem; }
.density { margin: .35rem 0 .3rem; font-size: .82rem; color: var(--soft); }
.density b { color: var(--ink); }
.bar { height: 4px; background: var(--line); border-radius: 2px; }
.bar div { height: 100%; background: var(--accent); border-radius: 2px; }
.histogram { display: block; width: 100%; height: 38px; margin: .6rem 0 .5rem; }
.histogram rect { fill: rgba(var(--hue), .8); }
.histogram path { stroke: var(--line); }
.logits { display: grid; grid-template-columns: 1fr 1fr; gap: .9rem; font-size: .8rem; }
.logits span, .neighbours > span:first-child { color: var(--soft); font-size: .72rem; }
.logits ol { margin: 0; padding: 0; list-style: none; }
.logits li { display: flex; justify-content: space-between; gap: .4rem; }
code, .text { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { overflow: hidden; white-space: pre; text-overflow: ellipsis; }
i { font-style: normal; font-variant-numeric: tabular-nums; }
.raises i { color: var(--up); }
.lowers i { color: var(--down); }
.neighbours { display: flex; flex-wrap: wrap; gap: .1rem .7rem; margin: .6rem 0 0; font-size: .8rem; }
.neighbours > span:first-child { flex-basis: 100%; }
.neighbours a { color: var(--accent); }
.neighbours i, .other { color: var(--soft); }
.passages { margin: 0; padding: 0; list-style: none; min-width: 0; }
.passages li { display: flex; gap: .9rem; padding: .28rem 0; border-top: 1px solid var(--line); }
.passages li:first-child { border-top: 0; padding-top: 0; }
.value { flex: 0 0 2.4rem; text-align: right; color: var(--soft); font-size: .76rem; line-height: 1.55rem;
  font-variant-numeric: tabular-nums; }
.text { min-width: 0; font-size: .8rem; line-height: 1.55; white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: inherit; background: rgba(var(--hue), calc(var(--a) * .8)); border-radius: 3px; padding: .08em 0; }
mark.peak { box-shadow: 0 0 0 1.5px rgb(var(--hue)); }
#nothing, footer { color: var(--soft); font-size: .82rem; }
@media (max-width: 820px) { .feature { grid-template-columns: minmax(0, 1fr); } .passages { margin-top: .8rem; } }
@media print { nav { display: none; } .feature { break-inside: avoid; } }
"""

SCRIPT = """
(function () {
  "use strict";
  var search = document.getElementById("search"), sort = document.getElementById("sort"), list = document.getElementById("features");
  var cards = Array.prototype.slice.call(list.children), chips = Array.prototype.slice.call(document.querySelectorAll(".chip"));
  var keys = {
    page: function () { return 0; },
    dense: function (card) { return -Number(card.dataset.density); },
    sparse: function (card) { return Number(card.dataset.density); },
    peak: function (card) { return -Number(card.dataset.peak); },
    index: function (card) { return Number(card.dataset.index); }
  };
  function show() {
    var wanted = search.value.toLowerCase(), count = 0;
    var groups = chips.filter(function (chip) { return chip.getAttribute("aria-pressed") === "true"; })
      .map(function (chip) { return chip.dataset.group; });
    cards.forEach(function (card) {
      var found = !wanted || card.dataset.tokens.toLowerCase().indexOf(wanted) >= 0 || card.dataset.index === wanted.trim();
      var member = !groups.length || card.dataset.groups.split(" ").some(function (group) { return groups.indexOf(group) >= 0; });
      card.hidden = !(found && member);
      count += card.hidden ? 0 : 1;
    });
    document.getElementById("nothing").hidden = count > 0;
    document.getElementById("count").textContent = (count < cards.length ? count + " of " : "") + cards.length + " features";
  }
  function order() {
    var key = keys[sort.value];
    cards.slice().sort(function (a, b) { return key(a) - key(b); }).forEach(function (card) { list.appendChild(card); });
  }
  function fromAddress() {
    var text = location.hash.slice(1);
    if (text.indexOf("q=") === 0) {
      try { search.value = decodeURIComponent(text.slice(2)); } catch (error) { search.value = text.slice(2); }
    } else if (text) {  // a link to a feature must not lead to a hidden one
      search.value = "";
      chips.forEach(function (chip) { chip.setAttribute("aria-pressed", "false"); });
    }
    show();
    var target = text && document.getElementById(text);
    if (target) { target.scrollIntoView(); }
  }
  search.addEventListener("input", function () {
    history.replaceState(null, "", search.value ? "#q=" + encodeURIComponent(search.value) : "#");
    show();
  });
  sort.addEventListener("change", order);
  chips.forEach(function (chip) {
    chip.addEventListener("click", function () {
      chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") === "true" ? "false" : "true");
      show();
    });
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();
"""
