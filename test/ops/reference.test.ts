import { openBackend } from "../../src/backends/open.ts";
import { conformance } from "./conformance.ts";

await conformance("reference", () => openBackend("reference"), ["f64", "f32", "bf16"]);
