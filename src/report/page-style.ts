// The style of the page. Two palettes; the reader's system picks one. No fonts or images are loaded.

export const PAGE_STYLE = `
:root { color-scheme: light dark;
  --ground: #fbfbf9; --card: #ffffff; --ink: #1d2129; --soft: #5a6270; --line: #e3e5e8; --grid: #eceef0;
  --accent: #1f5fbf; --base: #a4540b; --band: #a4540b1f; --best: #eaf1fb;
  --rank-0: #f0b429; --rank-1: #e8862e; --rank-2: #d9573f; --rank-3: #b83a68; --rank-4: #853489; --rank-5: #53349a; --rank-6: #27307f; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171c; --card: #1b1f26; --ink: #e7e9ec; --soft: #a3abb8; --line: #2e343e; --grid: #272c35;
  --accent: #7fb2ff; --base: #f0a95b; --band: #f0a95b26; --best: #22304a;
  --rank-0: #fde68a; --rank-1: #fbbf5a; --rank-2: #f58f5c; --rank-3: #ec6a86; --rank-4: #c76ad0; --rank-5: #9a78ee; --rank-6: #6f92ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 12px; }
p { margin: 0 0 12px; max-width: 75ch; }
.lead { color: var(--soft); font-size: 17px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 14px; margin: 26px 0 14px; padding: 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.facts dt { color: var(--soft); font-size: 14px; }
.facts dd { margin: 2px 0 0; font-size: 24px; font-weight: 650; letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
.facts dd small { display: block; font-size: 14px; font-weight: 400; color: var(--soft); letter-spacing: 0; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; margin: 14px 0 0; min-width: 0; }
.grid2 > section { margin: 0; }
.grid2 { margin-top: 14px; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
.chart .note { fill: var(--base); font-weight: 600; }
.chart .grid { stroke: var(--grid); } .chart .axis { stroke: var(--line); }
.chart .line { fill: none; stroke: var(--accent); stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.chart .dot { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.chart .whisker { stroke: var(--accent); stroke-width: 1.5; opacity: .75; }
.chart .base { stroke: var(--base); stroke-width: 2; stroke-dasharray: 6 5; } .chart .band { fill: var(--band); }
.chart .step { opacity: .55; } #loss .line { stroke: var(--ink); stroke-width: 2; }
${Array.from({ length: 7 }, (_, i) => `.rank-${i} { fill: var(--rank-${i}); background: var(--rank-${i}); }`).join("\n")}
.legend { color: var(--soft); font-size: 14px; margin: 10px 0 0; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin: 0 4px 0 6px; vertical-align: -1px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 14px; padding-bottom: 8px; }
th, td { text-align: right; padding: 8px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 8px; }
thead th { color: var(--soft); font-weight: 500; font-size: 14px; } tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
tr.best > * { background: var(--best); }
td small { color: var(--soft); margin-left: 6px; }
table.answers td, table.answers th { text-align: left; white-space: normal; vertical-align: top; }
table.answers td { font: 14px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; min-width: 140px; }
.plain td, .plain th { text-align: left; font-size: 14px; font-weight: 400; padding: 5px 8px; white-space: normal; overflow-wrap: anywhere; }
.plain th { color: var(--soft); width: 42%; }
.ok { color: var(--accent); }
@media (max-width: 520px) { main { padding: 24px 12px 40px; } section { padding: 16px 14px; } h1 { font-size: 25px; } th, td { padding: 7px 8px; } td small { display: block; margin: 0; } .chart text { font-size: 17px; } }
@media print { section, .facts div { break-inside: avoid; } }
`;
