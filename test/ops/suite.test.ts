// The suite itself: kernels that are wrong in one way each, and the check that must notice.

import { describe, expect, it } from "vitest";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { type ArgsOf, OPS, type OpName } from "../../src/ops/index.ts";
import { BYTES_PER_ELEMENT } from "../../src/tensor/dtype.ts";
import { type HostBuffer, readMatrix, writeMatrix } from "../../src/tensor/host.ts";
import { rowSlice, spanBytes, type Tensor } from "../../src/tensor/tensor.ts";
import { type AnyOp, conforms } from "./conformance.ts";

class BrokenBackend extends ReferenceBackend {
  override readonly kernels;

  constructor(name: OpName, run: (args: never) => void) {
    super();
    this.kernels = { ...new ReferenceBackend().kernels, [name]: { run } };
  }
}

interface Fault<K extends OpName> {
  readonly what: string;
  readonly op: K;
  readonly sample: string;
  readonly message: RegExp;
  /** Runs after the reference. */
  harm(args: ArgsOf<K>): void;
}

const fault = <K extends OpName>(given: Fault<K>): Fault<OpName> => given as unknown as Fault<OpName>;

const bytesOf = ({ buffer }: Tensor) => new Uint8Array((buffer as HostBuffer).data);

function change(tensor: Tensor, at: number, by: (value: number) => number): void {
  const values = readMatrix(tensor);
  values[at] = by(values[at]!);
  writeMatrix(tensor, values);
}

let calls = 0;

const FAULTS = [
  fault({
    what: "one element is off",
    op: "matmul",
    sample: "33×65×192",
    message: /dense: y: normalised error .*\[70\]/,
    harm: ({ y }) => change(y, 70, (value) => value + 0.1),
  }),
  fault({
    what: "all elements are a little off",
    op: "matmul",
    sample: "33×65×192",
    message: /normalised error/,
    harm: ({ y }) =>
      writeMatrix(
        y,
        readMatrix(y).map((value) => value * (1 + 2e-5)),
      ),
  }),
  fault({
    what: "the last row is not written",
    op: "rmsNorm",
    sample: "19×129",
    message: /y\[2322\] is NaN/,
    harm: ({ y }) => writeMatrix(rowSlice(y, 18, 19), new Float64Array(129).fill(Number.NaN)),
  }),
  fault({
    what: "NaN becomes a number",
    op: "glu",
    sample: "silu, exp overflows, NaN",
    message: /y\[6\] is 0, expected NaN/,
    harm: ({ y }) => change(y, 6, () => 0),
  }),
  fault({
    what: "a byte after the output is written",
    op: "add",
    sample: "3×7",
    message: /byte of y that must not change/,
    harm: ({ y }) => {
      bytesOf(y)[y.offset + spanBytes(y)] = 0;
    },
  }),
  fault({
    what: "the gap between rows is written",
    op: "add",
    sample: "3×7",
    message: /odd offset and row pitch: byte of y/,
    harm: ({ y }) => {
      if (y.stride > y.cols) bytesOf(y)[y.offset + y.cols * BYTES_PER_ELEMENT[y.dtype]] = 0;
    },
  }),
  fault({
    what: "an input is changed",
    op: "rope",
    sample: "forward, 5 rows of 3×14",
    message: /byte of cosSin that must not change/,
    harm: ({ cosSin }) => change(cosSin, 3, (value) => value + 1),
  }),
  fault({
    what: "the same call gives other bits",
    op: "sumSquares",
    sample: "3×7",
    message: /differs when the same call is repeated/,
    harm: ({ sum }) => change(sum, 0, (value) => value * (1 + 1e-7 * (calls++ % 2))),
  }),
  fault({
    what: "columns of t beyond the rank are written",
    op: "adaptedLinears",
    sample: "nf4, blocks across rows, b < R",
    message: /t\[0\]\[3\] is 0, expected NaN/,
    harm: ({ t }) => change(t[0]!, 3, () => 0),
  }),
  fault({
    what: "rows of dA beyond the rank are touched",
    op: "adaptedLinearsBackward",
    sample: "nf4, blocks across rows, b < R",
    message: /da\[0\]\[300\] is .*it must keep/,
    harm: ({ da }) => change(da[0]!, 300, (value) => value * (1 + 2e-7)),
  }),
  fault({
    what: "a sum is overwritten instead of added to",
    op: "rmsNormBackward",
    sample: "19×129",
    message: /normalised error/,
    harm: (args) => {
      writeMatrix(args.dx, new Float64Array(args.dx.rows * args.dx.cols));
      OPS.rmsNormBackward.reference(args);
    },
  }),
  fault({
    what: "one code is a neighbour",
    op: "quantize4bit",
    sample: "nf4, 5×97",
    message: /codes\[9\] is .* expected exactly/,
    harm: ({ codes }) => change(codes, 9, (value) => value ^ 1),
  }),
  fault({
    what: "a row outside the window moves",
    op: "adamW",
    sample: "a window",
    message: /params\[0\]\[0\] is .*it must keep/,
    harm: ({ params }) => change(params[0]!, 0, (value) => value * (1 + 2e-7)),
  }),
  fault({
    what: "one row of a large call is wrong",
    op: "linearCrossEntropy",
    sample: "large",
    message: /loss: normalised error/,
    harm: ({ loss }) => change(loss, 130, (value) => value + 0.01),
  }),
];

describe("the suite notices that", () => {
  for (const { what, op: name, sample: sampleName, message, harm } of FAULTS)
    it(what, async () => {
      const op = OPS[name] as unknown as AnyOp;
      const sample = op.samples.find((candidate) => candidate.name === sampleName)!;
      await conforms(new ReferenceBackend(), op, sample, "f32");
      const broken = new BrokenBackend(name, (args: never) => {
        op.reference(args);
        harm(args);
      });
      await expect(conforms(broken, op, sample, "f32")).rejects.toThrow(message);
      expect(broken.allocatedBytes).toBe(0);
    });
});
