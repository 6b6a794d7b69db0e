import { describe, expect, test } from "vitest";
import type { Io } from "../../src/cli/io.ts";
import { Progress } from "../../src/cli/progress.ts";
import { showBytes, showSeconds, styleFor, table, widthOf } from "../../src/cli/style.ts";
import type { TrainEvent } from "../../src/train/events.ts";

const plain = styleFor(false, {});

/** A display with a clock that the test moves, and what it wrote. */
function display(interactive: boolean, columns = 100) {
  let written = "";
  let now = 0;
  const err = (text: string): void => {
    written += text;
  };
  const io = { err, interactive, columns } as unknown as Io;
  const progress = new Progress(io, plain, () => now);
  return {
    progress,
    tell: (ms: number, event: TrainEvent): string => {
      now += ms;
      written = "";
      progress.onEvent(event);
      return written;
    },
  };
}

const layers = { keep: 2, "recompute-cheap": 0, offload: 0, "recompute-layer": 0, "offload-input": 0 };
const plan = { planBytes: 3 << 20, offloadedBytes: 0, optimizerState: "adam32", layers } as const;
const start: TrainEvent = { type: "start", step: 0, steps: 10, resumed: false, ...plan };
const step = (n: number, loss = 2): TrainEvent => ({
  type: "step",
  step: n,
  loss,
  rank: 4,
  gradNorm: 1,
  learningRate: 1e-3,
  tokens: 9,
  supervised: 5,
  tokensPerSecond: 1234.6,
  secondsLeft: 65,
});

describe("progress", () => {
  test("a run says what its plan does not simply keep on the device", () => {
    const { tell } = display(true, 60);
    const tight = { ...layers, keep: 0, "recompute-cheap": 1, offload: 3, "offload-input": 4 };
    expect(tell(0, { ...start, layers: tight, offloadedBytes: 5 << 20, optimizerState: "adam32-paged" })).toBe(
      "training: 10 steps, arena of a step 3.00 MiB; 0 layers keep everything, 1 recompute what is cheap, 0 recompute all, 4 recompute all from an input in host memory, 3 keep theirs in host memory; 5.00 MiB of activations in host memory; optimizer adam32-paged\n",
    );
  });

  test("on a terminal: one line, redrawn at most ten times a second, never longer than the screen", () => {
    const { tell } = display(true, 60);
    expect(tell(0, start)).toBe("training: 10 steps, arena of a step 3.00 MiB\n");
    const drawn = tell(200, step(0));
    expect(drawn.startsWith("\r\u001b[2K")).toBe(true);
    expect(drawn).not.toContain("\n");
    expect(widthOf(drawn.slice("\r\u001b[2K".length))).toBeLessThan(60);
    expect(drawn).toContain("step 1/10  loss 2.000  rank  4  1235 tokens/s  1:05 left");
    expect(tell(20, step(1))).toBe("");
    expect(tell(100, step(2))).not.toBe("");
  });

  test("elsewhere: a plain line every few seconds, and the last", () => {
    const { tell } = display(false);
    tell(0, start);
    expect(tell(10, step(0))).toMatch(/^step 1\/10 .*\n$/);
    expect(tell(3000, step(1))).toBe("");
    expect(tell(2500, step(2))).toMatch(/^step 3\/10/);
    expect(tell(1, step(9))).toMatch(/^step 10\/10/);
  });

  test("the loss shown is smoothed, since single steps differ by the rank they drew", () => {
    const { tell } = display(false);
    tell(0, start);
    tell(1, step(0, 4));
    expect(tell(6000, step(1, 2))).toContain("loss 3.800");
  });

  test("a line for people goes above the bar, which comes back", () => {
    const { tell, progress } = display(true);
    tell(0, start);
    tell(200, step(0));
    const skipped = tell(1, { type: "skipped", step: 1, rank: 2, reason: "gradient" });
    const [above, bar] = skipped.split("\n");
    expect(above).toBe("\r\u001b[2Kstep 2 at rank 2 changed nothing: its gradient was not finite");
    expect(bar).toContain("step 1/10");
    progress.clear();
    expect(tell(1, { type: "end", step: 10, seconds: 3725 })).toBe("trained 10 steps in 1:02:05\n");
  });
});

test("sizes and times for people", () => {
  expect([0, 1023, 1536, 24 * 2 ** 30].map(showBytes)).toEqual(["0 B", "1023 B", "1.50 KiB", "24.0 GiB"]);
  expect([0, 59.6, 3725].map(showSeconds)).toEqual(["0:00", "1:00", "1:02:05"]);
});

test("tables align numbers right, and colours take no room", () => {
  const colours = styleFor(true, {});
  expect(
    table(
      ["rank", "loss"],
      [
        ["1", "2.5"],
        ["16", "10.25"],
      ],
      plain,
    ),
  ).toBe("rank   loss\n1       2.5\n16    10.25");
  expect(widthOf(colours.bold("abc"))).toBe(3);
  expect(styleFor(true, { NO_COLOR: "1" }).bold("abc")).toBe("abc");
});
