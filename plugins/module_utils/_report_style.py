# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The frame and the looks of the reports. Everything is in the page: it opens offline, and prints."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>@TITLE@</title>
<style>
:root {
  --page: #ffffff; --card: #f6f7f9; --text: #1a1d21; --soft: #59616b; --line: #dde1e6;
  --good: #14713d; --good-bg: #e2f4e9; --bad: #b3261e; --bad-bg: #fdeaea;
  --warn: #8a4b00; --warn-bg: #fdf0d9; --lost: #9c1b7c;
  --r0: #2f6fde; --r1: #b45f06; --r2: #6d45b8; --r3: #0f766e;
  --acks: #8fb3f2; --phase: #7d8794; --outage: rgb(211 47 47 / 22%); --outage-line: #c62828;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1d2125; --text: #e7eaed; --soft: #a2abb5; --line: #343a41;
    --good: #6fd69a; --good-bg: #153323; --bad: #ff9a92; --bad-bg: #3b1b1a;
    --warn: #f2bd6b; --warn-bg: #3a2a10; --lost: #f08ad8;
    --r0: #2a5fc0; --r1: #9a5408; --r2: #6a48ab; --r3: #0d6a63;
    --acks: #47689f; --phase: #8a94a0; --outage: rgb(255 110 100 / 24%); --outage-line: #ff7b72;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 28px 20px 48px; max-width: 980px; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 1.12rem; margin: 36px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 18px 0 8px; }
p { margin: 0 0 10px; }
.lead { color: var(--soft); margin: 0; }
.small { color: var(--soft); font-size: .875rem; }
.unknown { color: var(--bad); white-space: nowrap; }
code, pre { font: .875em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
header { display: grid; grid-template-columns: 1fr auto; gap: 18px 24px; align-items: start; }
.verdict {
  margin: 0; padding: 10px 22px; border-radius: 10px; white-space: nowrap;
  font-size: 1.55rem; font-weight: 700;
}
.verdict.pass { color: var(--good); background: var(--good-bg); }
.verdict.fail { color: var(--bad); background: var(--bad-bg); }
.facts {
  grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 0; padding: 12px 16px;
  background: var(--card); border-radius: 10px;
}
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.pairs {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 0 28px; margin: 0 0 18px;
}
.pairs div {
  display: flex; justify-content: space-between; align-items: baseline; gap: 16px; padding: 6px 0;
  border-bottom: 1px solid var(--line);
}
.pairs dt { color: var(--soft); font-size: .9rem; }
.pairs dd { margin: 0; font-size: .94rem; text-align: right; font-variant-numeric: tabular-nums; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 40px; }
.reasons { margin: 0; padding: 12px 16px 12px 34px; background: var(--bad-bg); border-radius: 10px; }
.reasons li { margin: 3px 0; overflow-wrap: anywhere; }
.overrides {
  margin-top: 22px; padding: 12px 16px; background: var(--warn-bg); border-left: 4px solid var(--warn);
  border-radius: 0 10px 10px 0; overflow-wrap: anywhere;
}
.overrides p { margin: 0; }
.overrides ul { margin: 4px 0 0; padding-left: 20px; }
.override, .mark.warn { color: var(--warn); }
.soft { color: var(--soft); }
.after { margin-top: 10px; overflow-wrap: anywhere; }
.controls { margin: 0 0 12px; }
.controls > div {
  display: grid; grid-template-columns: 230px 1fr; gap: 2px 24px; padding: 9px 0;
  border-bottom: 1px solid var(--line); break-inside: avoid;
}
.controls dt { font-weight: 600; }
.controls dt span { display: block; color: var(--soft); font-weight: 400; font-size: .875rem; }
.controls dd { margin: 0; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 3px; }
td > a, th > a { white-space: nowrap; }
header.trend { grid-template-columns: 1fr; }
.verdicts { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; }
.signs { display: flex; flex-wrap: wrap; gap: 3px; }
.signs i {
  width: 20px; height: 20px; border-radius: 5px; font-style: normal; font-size: 12px; font-weight: 700;
  display: grid; place-items: center;
}
.signs .good { color: var(--good); background: var(--good-bg); }
.signs .bad { color: var(--bad); background: var(--bad-bg); }
.plots {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 10px 36px;
}
figure { margin: 6px 0; break-inside: avoid; }
figcaption { font-size: .875rem; color: var(--soft); }
svg .bar.good { fill: var(--good); }
svg .bar.bad { fill: var(--bad); }
svg .gap { fill: none; stroke: var(--bad); stroke-dasharray: 3 3; }
.scroll { overflow-x: auto; margin: 0 0 14px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top;
}
th:last-child, td:last-child { padding-right: 2px; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; white-space: nowrap; }
tbody th { font-weight: 500; }
.n { text-align: right; }
.mark { white-space: nowrap; font-weight: 600; }
.whole { white-space: nowrap; }
.mark.wrap { white-space: normal; }
.mark.good { color: var(--good); }
.mark.bad { color: var(--bad); }
.meter {
  display: block; height: 4px; margin-top: 4px; background: var(--line); border-radius: 2px; overflow: hidden;
}
.meter span { display: block; height: 100%; }
.meter .good { background: var(--good); }
.meter .bad { background: var(--bad); }
svg { display: block; }
svg .t { font-size: 12px; fill: var(--text); }
svg .lane, svg .t.axis { fill: var(--soft); }
svg .out { fill: var(--bad); font-weight: 600; }
svg .axis, svg .grid { stroke: var(--line); }
svg .t.axis { stroke: none; }
svg .grid { stroke-opacity: .6; }
svg .phase { fill: var(--phase); stroke: var(--phase); }
svg .acks { fill: var(--acks); }
svg .none { fill: var(--outage-line); }
svg .outage { fill: var(--outage); stroke: var(--outage-line); stroke-width: 1; }
svg .lost { fill: var(--lost); }
svg .narrow { display: none; }
svg .in { font-size: 12px; fill: #fff; }
svg .r0 rect { fill: var(--r0); } svg .r1 rect { fill: var(--r1); }
svg .r2 rect { fill: var(--r2); } svg .r3 rect { fill: var(--r3); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 4px; font-size: .875rem; }
.swatch { display: inline-block; width: 14px; height: 10px; margin-right: 6px; border-radius: 2px; }
.swatch.r0 { background: var(--r0); } .swatch.r1 { background: var(--r1); }
.swatch.r2 { background: var(--r2); } .swatch.r3 { background: var(--r3); }
.swatch.acks { background: var(--acks); } .swatch.none { background: var(--outage-line); }
.swatch.lost { background: var(--lost); height: 6px; }
.swatch.outage { background: var(--outage); outline: 1px solid var(--outage-line); }
@media (max-width: 560px) {
  body { padding: 18px 14px 36px; }
  header { grid-template-columns: 1fr; }
  .verdict { grid-row: 1; justify-self: start; font-size: 1.3rem; padding: 6px 16px; }
  h1 { font-size: 1.3rem; }
  table { font-size: .88rem; }
  th, td { padding-right: 9px; }
  .two, .controls > div { grid-template-columns: 1fr; }
  svg .wide { display: none; }
  svg .narrow { display: inline; }
  .stack thead { display: none; }
  .stack tr {
    display: grid; grid-template-columns: 1fr auto; padding: 6px 0; border-bottom: 1px solid var(--line);
  }
  .stack th, .stack td { border: 0; padding: 1px 0; }
  .stack td:last-child { grid-column: 1 / -1; color: var(--soft); }
  .cards thead { display: none; }
  .cards tr {
    display: flex; flex-wrap: wrap; gap: 1px 16px; padding: 8px 0; border-bottom: 1px solid var(--line);
  }
  .cards th, .cards td { border: 0; padding: 0; }
  .cards td:empty { display: none; }
  .cards th { flex: 1 0 55%; }
  .cards td:nth-child(2) { flex: 1 0 100%; order: 1; }
  .cards td:nth-child(n + 4) { order: 2; }
  .cards td[data-label]::before { content: attr(data-label) " "; color: var(--soft); }
  table:not(.stack, .cards) .mark .word {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
}
@media print {
  :root {
    --page: #ffffff; --card: #f6f7f9; --text: #000000; --soft: #444444; --line: #cccccc;
    --good: #14713d; --good-bg: #e2f4e9; --bad: #b3261e; --bad-bg: #fdeaea;
    --warn: #8a4b00; --warn-bg: #fdf0d9; --lost: #9c1b7c;
    --r0: #2f6fde; --r1: #b45f06; --r2: #6d45b8; --r3: #0f766e;
    --acks: #8fb3f2; --phase: #7d8794; --outage: rgb(211 47 47 / 22%); --outage-line: #c62828;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  section > svg, tr, pre, header { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
</style>
</head>
<body>
<main>
@BODY@
</main>
</body>
</html>
"""
