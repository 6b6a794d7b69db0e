// y = gelu(x) (arXiv 1606.08415, §2), by the error function or by tanh: ops/activation.ts. Backward: docs/math/gelu.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { activate } from "./activation.ts";
import { broken, bytesOf, FLOATS, type Named, type Op, type SampleMaker } from "./op.ts";

export const GELU_FORMS = ["erf", "tanh"] as const;
export type GeluForm = (typeof GELU_FORMS)[number];

export interface GeluArgs {
  /** [N, F] */
  readonly x: Tensor;
  /** [N, F] */
  readonly y: Tensor;
  readonly form: GeluForm;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const gelu: Op<GeluArgs> = {
  name: "gelu",
  signature: {
    x: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    y: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
  },
  gradient: { op: "geluBackward", args: { x: "x", dy: { gradientOf: "y" }, dx: { gradientOf: "x" } } },
  validate: ({ form }) => checkForm(gelu, form),
  reference({ x, y, form }) {
    writeMatrix(
      y,
      readMatrix(x).map((z) => activate(`gelu-${form}`, z)),
    );
  },
  samples: GELU_FORMS.flatMap((form) => [
    ...sampleSizes.map(([n, f]) => ({
      name: `${form}, ${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({ x: m.normal(m.dtype, n, f, 2), y: m.output("out", m.dtype, n, f), form }),
    })),
    {
      name: `${form}, exp overflows, NaN`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        x: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
        y: m.output("out", m.dtype, 1, 8),
        form,
      }),
    },
  ]),
  badSamples: [
    {
      name: "y of another width",
      make: (m) => ({ x: m.normal(m.dtype, 2, 3), y: m.output("out", m.dtype, 2, 4), form: "erf" }),
    },
    {
      name: "no form",
      make: (m) => ({ x: m.normal(m.dtype, 2, 3), y: m.output("out", m.dtype, 2, 3), form: "quick" as "erf" }),
    },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some f32 roundings per element; an erf good to 2e-7 of 1" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 8 * args.y.rows * args.y.cols, bytes: bytesOf(args) }),
};

export function checkForm(op: Named, form: GeluForm): void {
  if (!GELU_FORMS.includes(form)) throw broken(op, "form", GELU_FORMS.join(" or "), form);
}
