import { itAgreesWithTorch } from "./agreement.ts";
import { SETTINGS } from "./lab.ts";

for (const setting of SETTINGS) itAgreesWithTorch(setting);
