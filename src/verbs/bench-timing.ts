// Many timings after a warm-up: single figures on a shared machine, or on a card that is still cool, mean little.

export interface StepTimes {
  /** Seconds of one step. */
  readonly median: number;
  readonly mean: number;
  readonly steps: number;
}

export interface TimingLimits {
  /** Seconds before anything counts. */
  readonly warmUp: number;
  /** Seconds that count, at least. */
  readonly seconds: number;
  readonly leastSteps: number;
}

/** Times `step`, which is told how many counted steps came before it (in the warm-up: from 0 likewise). */
export async function timeSteps(
  step: (index: number) => Promise<void>,
  { warmUp, seconds, leastSteps }: TimingLimits,
): Promise<StepTimes> {
  const since = (start: number): number => (performance.now() - start) / 1000;
  const began = performance.now();
  let index = 0;
  do await step(index++);
  while (since(began) < warmUp);
  const times: number[] = [];
  const measured = performance.now();
  while (times.length < leastSteps || since(measured) < seconds) {
    const start = performance.now();
    await step(times.length);
    times.push(since(start));
  }
  const mean = since(measured) / times.length;
  return { median: median(times), mean, steps: times.length };
}

const median = (times: readonly number[]): number => [...times].sort((a, b) => a - b)[times.length >> 1]!;

/** Median seconds of `work`, run for a quarter of `seconds` to warm up and then for `seconds` (at least three times). */
export async function medianSeconds(work: () => Promise<void>, seconds: number): Promise<number> {
  return (await timeSteps(work, { warmUp: seconds / 4, seconds, leastSteps: 3 })).median;
}

/** Work that takes turns with others, so many times in a row at each. */
export interface Turn {
  readonly work: () => Promise<void>;
  readonly times: number;
}

/**
 * Median seconds of each one's work. They take turns, so that what else the machine does meets all of them alike: a round to warm
 * up, then at least three, until the first one's work took `seconds`.
 */
export async function medianSecondsInTurn(turns: readonly Turn[], seconds: number): Promise<number[]> {
  const times: number[][] = turns.map(() => []);
  const sum = (list: readonly number[]): number => list.reduce((total, one) => total + one, 0);
  for (let round = -1; round < 3 || sum(times[0]!) < seconds; round++)
    for (const [i, { work, times: count }] of turns.entries())
      for (let n = 0; n < count; n++) {
        const start = performance.now();
        await work();
        if (round >= 0) times[i]!.push((performance.now() - start) / 1000);
      }
  return times.map(median);
}
