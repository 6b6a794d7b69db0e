// dx = dy·gelu'(x). Derivation: docs/math/gelu.md.

import { readMatrix, writeMatrix } from "../tensor/host.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { slopeOf } from "./activation.ts";
import { checkForm, GELU_FORMS, type GeluForm } from "./gelu.ts";
import { bytesOf, FLOATS, type Op, type SampleMaker } from "./op.ts";

export interface GeluBackwardArgs {
  /** [N, F] */
  readonly x: Tensor;
  /** [N, F] */
  readonly dy: Tensor;
  /** [N, F]; may be x or dy */
  readonly dx: Tensor;
  readonly form: GeluForm;
}

const sampleSizes = [
  [1, 1],
  [3, 7],
  [17, 129],
  [32, 384],
] as const;

export const geluBackward: Op<GeluBackwardArgs> = {
  name: "geluBackward",
  signature: {
    x: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dy: { access: "in", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"] },
    dx: { access: "out", dims: ["N", "F"], dtypes: ["f64", "f32", "bf16"], mayAlias: ["x", "dy"] },
  },
  validate: ({ form }) => checkForm(geluBackward, form),
  reference({ x, dy, dx, form }) {
    const z = readMatrix(x);
    writeMatrix(
      dx,
      readMatrix(dy).map((d, i) => d * slopeOf(`gelu-${form}`, z[i]!)),
    );
  },
  samples: GELU_FORMS.flatMap((form) => [
    ...sampleSizes.map(([n, f]) => ({
      name: `${form}, ${n}×${f}`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => sampleCall(m, n, f, form),
    })),
    ...(["x", "dy"] as const).map((over) => ({
      name: `${form}, over ${over}`,
      dtypes: FLOATS,
      make(m: SampleMaker) {
        const args = sampleCall(m, 5, 67, form);
        return { ...args, dx: args[over] };
      },
    })),
    {
      name: `${form}, exp overflows, NaN`,
      dtypes: FLOATS,
      make: (m: SampleMaker) => ({
        ...sampleCall(m, 1, 8, form),
        x: m.values(m.dtype, 1, 8, [0, -0, 100, -100, 1000, -1000, Number.NaN, 1e-30]),
      }),
    },
  ]),
  badSamples: [
    {
      name: "dx of another width",
      make: (m) => ({ ...sampleCall(m, 2, 3, "erf"), dx: m.output("out", m.dtype, 2, 4) }),
    },
    { name: "no form", make: (m) => ({ ...sampleCall(m, 2, 3, "erf"), form: "quick" as "erf" }) },
  ],
  tolerance: {
    f64: { normalised: 1e-14, worst: 1e-13, reason: "double precision, another order of the same operations" },
    f32: { normalised: 1e-6, worst: 1e-5, reason: "some f32 roundings per element; an erf good to 2e-7 of 1" },
    bf16: { normalised: 4e-3, worst: 3e-2, reason: "one rounding of the output, at most 2⁻⁹ of the element" },
  },
  cost: (args) => ({ flops: 14 * args.dx.rows * args.dx.cols, bytes: bytesOf(args) }),
};

function sampleCall(m: SampleMaker, n: number, f: number, form: GeluForm): GeluBackwardArgs {
  return {
    x: m.normal(m.dtype, n, f, 2),
    dy: m.normal(m.dtype, n, f),
    dx: m.output("out", m.dtype, n, f),
    form,
  };
}
