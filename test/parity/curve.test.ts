import { itFollowsTorch } from "./curve.ts";
import { SETTINGS } from "./lab.ts";

for (const setting of SETTINGS) itFollowsTorch(setting);
