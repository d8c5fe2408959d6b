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
