// A process of its own, as its environment hides every GPU.

import { openCuda } from "../../src/backends/cuda/cuda.ts";

await openCuda().catch(({ code, message, hint }) => process.stdout.write(JSON.stringify({ code, message, hint })));
