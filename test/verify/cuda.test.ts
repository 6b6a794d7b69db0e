// `npm run verify:cuda`: the cuda backend on the GPU of this machine. Fails where there is none.

import { openBackend } from "../../src/backends/open.ts";
import { conformance } from "../ops/conformance.ts";

await conformance("cuda", () => openBackend("cuda"));
