// The linears of a model: adapted ones, and the dense product for logits.

import type { AdaptedLinearsArgs } from "../../ops/adapted-linears.ts";
import type { KernelTable } from "../backend.ts";
import { adaptedLinears, forwardWishes, planForward } from "./adapted-linears.ts";
import { adaptedLinearsBackward, backwardWishes, planBackward } from "./adapted-linears-backward.ts";
import type { CudaDevice } from "./device.ts";
import { adaptedFewRows, hasFewRows, planFewRows, startsWhole } from "./few-rows.ts";
import { inOrder, prepared } from "./kernel.ts";
import { bring, meetingDtype, product, roomAs } from "./products.ts";
import { Room, roomBytes } from "./room.ts";

/** A's are read in whole words too. */
const decodes = (device: CudaDevice, { x, weights, biases, a, t, y }: AdaptedLinearsArgs): boolean =>
  hasFewRows(device, x, weights, [...biases, ...t, ...y]) && a.every((entry) => !entry || startsWhole(entry));

export function linearKernels(device: CudaDevice) {
  return {
    matmul: prepared(
      device,
      "matmul",
      ({ x, weight, y }, scratch) => {
        const room = new Room(scratch);
        const dtype = meetingDtype(x, weight);
        const [a, b] = [roomAs(room, x, dtype), roomAs(room, weight, dtype)];
        return inOrder(
          bring(device, x, a),
          bring(device, weight, b),
          product(device, { c: y, a, b, transposeB: true }),
        );
      },
      ({ x, weight }) => {
        const dtype = meetingDtype(x, weight);
        return roomBytes((room) => [x, weight].map((tensor) => roomAs(room, tensor, dtype)));
      },
    ),
    adaptedLinears: {
      ...prepared(
        device,
        "adaptedLinears",
        (args, scratch) => (decodes(device, args) ? adaptedFewRows : adaptedLinears)(device, args, new Room(scratch)),
        (args) =>
          roomBytes((room) =>
            decodes(device, args) ? planFewRows(args, room) : planForward(args, room, device.decodedBytes),
          ),
      ),
      wishes: forwardWishes,
    },
    adaptedLinearsBackward: {
      ...prepared(
        device,
        "adaptedLinearsBackward",
        (args, scratch) => adaptedLinearsBackward(device, args, new Room(scratch)),
        (args) => roomBytes((room) => planBackward(args, room, device.decodedBytes)),
      ),
      wishes: backwardWishes,
    },
  } satisfies Partial<KernelTable>;
}
