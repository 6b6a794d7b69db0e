import { describe, expect, test } from "vitest";
import { reportHtml } from "../../src/report/html.ts";
import { h, render } from "../../src/report/markup.ts";
import { bestRank, type Report } from "../../src/report/report.ts";
import { sampleReport } from "./sample-report.ts";

describe("report", () => {
  const page = reportHtml(sampleReport());

  test("is one page that loads nothing and runs nothing", () => {
    expect(page.startsWith("<!doctype html>")).toBe(true);
    expect(page).not.toMatch(/<script|<link|<img|@import|url\(|https?:/);
  });

  test("escapes what comes from data", () => {
    expect(page).toContain("Say &lt;b&gt;g r o i n&lt;/b&gt; &amp; more");
    const evil = { ...sampleReport(), title: '<script>alert("x")</script>', settings: { '"><img src=x>': "'" } };
    expect(reportHtml(evil)).not.toMatch(/<script|<img/);
  });

  test("names every rank with loss, metric, intervals and size", () => {
    for (const text of [
      "34.5\u00a0%",
      "32.0\u00a0% – 37.0\u00a0%",
      "3.15 MB",
      "32 (best)",
      "3 *",
      "not drawn in training",
    ])
      expect(page).toContain(text);
  });

  test("describes its charts for those who cannot see them", () => {
    expect(page.match(/<svg[^>]*role="img"[^>]*aria-labelledby/g)).toHaveLength(3);
    expect(page).toContain("Rank 32: 34.5\u00a0% (95 % interval 32.0\u00a0% to 37.0\u00a0%)");
  });

  test("marks answers that are right", () => {
    expect(page.match(/✓ <\/span>/g)).toHaveLength(3);
  });

  test("draws only finite numbers, whatever the run was like", () => {
    const one: Report = {
      ...sampleReport(1),
      metricName: null,
      ranks: sampleReport()
        .ranks.slice(0, 2)
        .map((rank) => ({ ...rank, metric: null })),
      samples: [],
    };
    const flat: Report = {
      ...sampleReport(40),
      steps: sampleReport(40).steps.map((step) => ({ ...step, loss: 1, rank: 4 })),
    };
    const empty: Report = { ...sampleReport(0), ranks: [], samples: [] };
    const long = sampleReport(5000);
    for (const report of [one, flat, empty, long]) expect(reportHtml(report)).not.toMatch(/NaN|Infinity|undefined/);
    expect(reportHtml(long).length).toBeLessThan(120_000);
  });

  test("a base far from all ranks is named, not drawn", () => {
    const report = sampleReport();
    const far = {
      ...report,
      ranks: report.ranks.map((rank) => (rank.rank === 0 ? { ...rank, loss: { value: 90, low: 89, high: 91 } } : rank)),
    };
    expect(reportHtml(far)).toContain("base 90.000 ↑ outside this range");
  });
});

test("the best rank has the lowest error, the highest match, or the lowest loss", () => {
  const { ranks } = sampleReport();
  expect(bestRank({ ranks, metricName: "error-rate" })?.rank).toBe(32);
  expect(bestRank({ ranks, metricName: "exact-match" })?.rank).toBe(1);
  expect(bestRank({ ranks: ranks.map((rank) => ({ ...rank, metric: null })), metricName: null })?.rank).toBe(32);
});

test("markup escapes attributes and text", () => {
  expect(render(h("p", { title: 'a"b' }, "<&>", null, [1]))).toBe('<p title="a&quot;b">&lt;&amp;&gt;1</p>');
});
