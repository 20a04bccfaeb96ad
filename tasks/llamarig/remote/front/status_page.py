"""The status page of a front: one document, which reads /front/status every two seconds."""

from __future__ import annotations

PAGE_HEADERS = {
    # Nothing from elsewhere, and no frame around it.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>llamarig</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
         color: #222; background: #fff }
  @media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } }
  table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .8rem .3rem 0 }
  th { font-weight: 600; border-bottom: 1px solid #8888 } .problem { color: #c33 } .none { opacity: .6 }
  .bar { background: #8884; height: 1rem; border-radius: .3rem; overflow: hidden }
  .bar div { background: #4a8; height: 100% }
</style>
<h1>Models of this box</h1>
<p id="trouble" class="problem" role="status"></p>
<table><thead><tr><th>model<th>state<th>answers<th>waits<th>context<th>also called</thead><tbody id="models"></table>
<div id="cards"></div>
<h2>Last switches</h2>
<table><tbody id="switches"></table>
<script>
  const at = id => document.getElementById(id);
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const row = cells => { const made = make("tr"); made.append(...cells.map(text => make("td", text))); return made };
  const time = s => s < 90 ? s + " s" : s < 5400 ? Math.round(s / 60) + " min" : Math.round(s / 3600) + " h";
  function show(status) {
    at("models").replaceChildren(...status.models.map(model => {
      const made = row([model.name, model.state + " for " + time(model.for_s), model.running, model.waiting,
                        model.context ?? "", model.aliases.join(", ")]);
      if (model.problem) made.children[1].append(make("div", model.problem, "problem"));
      return made;
    }));
    at("cards").replaceChildren(...status.gpus.flatMap(card => {
      const bar = make("div", undefined, "bar"), used = make("div");
      used.style.width = 100 * card.used_mib / card.total_mib + "%";
      bar.append(used);
      return [make("p", card.name + ": " + card.used_mib + " of " + card.total_mib + " MiB"), bar];
    }));
    at("switches").replaceChildren(...status.switches.map(one => row([
      new Date(1000 * one.at).toLocaleTimeString(), one.model,
      one.problem || "loaded in " + one.took_s + " s"])));
    if (!status.switches.length) at("switches").append(make("p", "None since the front was started.", "none"));
  }
  async function look() {
    try {
      const answer = await fetch("front/status");
      if (!answer.ok) throw new Error("HTTP " + answer.status);
      show(await answer.json());
      at("trouble").textContent = "";
    } catch (error) { at("trouble").textContent = "The front does not answer: " + error.message }
    setTimeout(look, 2000);
  }
  look();
</script>
"""
