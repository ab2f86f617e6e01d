"""The page of links as HTML, light and dark, without anything from other servers; `page` fills it."""

from string import Template

PAGE_TEMPLATE = Template(r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title – forcetune</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --dim: #566070; --line: #d5dae2;
  --link: #0b57b5; --good: #1a6b36; --bad: #a32218; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --card: #1d2229; --text: #e4e8ee; --dim: #a2acba; --line: #353d48;
    --link: #8ab8ff; --good: #7fd49b; --bad: #ff9c92; }
}
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin: 0; font-size: 1.1rem; }
p { margin: .35rem 0 0; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.store, .folder { color: var(--dim); font-size: .9rem; }
.main { font-weight: 600; }
ul { list-style: none; margin: 1.5rem 0 2rem; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
li, .studies { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
.state::before { content: "\25CF\00A0"; }
.state { color: var(--bad); }
.state[data-is="answers"] { color: var(--good); }
.state[data-is="none"] { color: var(--dim); }
.trouble { color: var(--bad); }
.studies { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: .5rem; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-top: 1px solid var(--line); font-weight: normal; }
thead th { border-top: 0; color: var(--dim); font-size: .9rem; }
tr[aria-current] th { font-weight: 700; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="folder">forcetune in <code>$folder</code></p>
<ul>
$dashboards
</ul>
<section class="studies" aria-labelledby="studies">
<h2 id="studies">Studies</h2>
$studies
$troubles
</section>
</main>
<script>
"use strict";
const GONE = "unknown: forcetune ui has ended";
const boxes = [...document.querySelectorAll("[data-of]")];
function show(states) {
  for (const box of boxes) {
    const state = states ? states[box.dataset.of] : GONE;
    if (box.textContent !== state) box.textContent = state;  // a screen reader speaks of changes alone
    box.dataset.is = state;
  }
}
async function ask() {
  let states = null;
  try {
    const answer = await fetch("/states");
    if (answer.ok) states = await answer.json();
  } catch { /* nobody is there: said by what is shown */ }
  show(states);
  setTimeout(ask, 4000);
}
show(Object.fromEntries(boxes.map((box) => [box.dataset.of, box.textContent])));
setTimeout(ask, 1000);
</script>
</body>
</html>
""")
