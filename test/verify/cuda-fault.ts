// A process of its own, as the fault costs it the GPU: a kernel writes where there is no memory.

import { CudaBuffer } from "../../src/backends/cuda/buffer.ts";
import { openCuda } from "../../src/backends/cuda/cuda.ts";
import { prepared } from "../../src/backends/cuda/kernel.ts";
import { kernelArguments } from "../../src/backends/cuda/launch.ts";

const backend = await openCuda();
const { device } = backend;
const real = backend.alloc(4, "real");
const fault = prepared(device, "fill", () => {
  const nowhere = new CudaBuffer(
    2 ** 46,
    4,
    "nowhere",
    () => {},
    () => {},
  );
  const args = kernelArguments().address(nowhere.address).longs(1).integers(1, 1, 0);
  return device.launch(device.function("fill.cu", "fill", { TYPE: "u32", WIDTH: 1 }), [1], 1, args);
});
fault.run({} as never, null);
try {
  await backend.read(real, 0, 4);
} catch (error) {
  const { code, message, hint } = error as { code: string; message: string; hint: string };
  process.stdout.write(JSON.stringify({ code, message, hint }));
}
