// Median of many, after a warm-up: single figures on a shared machine mean little.

/** Median seconds of `work`, run for a quarter of `seconds` to warm up and then for `seconds` (at least three times). */
export async function medianSeconds(work: () => Promise<void>, seconds: number): Promise<number> {
  const began = performance.now();
  const since = (start: number): number => (performance.now() - start) / 1000;
  do await work();
  while (since(began) < seconds / 4);
  const times: number[] = [];
  const measured = performance.now();
  while (times.length < 3 || since(measured) < seconds) {
    const start = performance.now();
    await work();
    times.push(since(start));
  }
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}
