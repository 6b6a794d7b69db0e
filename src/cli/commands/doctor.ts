import { QdlError } from "../../errors.ts";
import { doctor } from "../../verbs/doctor.ts";
import { defineCommand } from "../command.ts";

export const doctorCommand = defineCommand({
  name: "doctor",
  summary: "check whether this machine can run qdylora",
  details:
    "Looks at Node, the machine, every backend and the bundled base, and says what to do about what is missing. A GPU may be missing. Uses no network.",
  options: [],
  examples: [{ line: "doctor", says: "run this first when something does not work" }],
  async run(_values, context) {
    const { style } = context;
    const diagnosis = await doctor();
    for (const { name, ok, needed, detail, hint } of diagnosis.findings)
      context.say(
        `${ok ? style.good("ok ") : needed ? style.bad("no ") : " - "} ${name.padEnd(18)} ${detail}${hint ? `\n    ${style.bold("hint:")} ${hint}` : ""}`,
      );
    const broken = diagnosis.findings.filter(({ ok, needed }) => needed && !ok);
    if (broken.length > 0)
      throw new QdlError(
        "BACKEND_UNAVAILABLE",
        `doctor: ${broken.map(({ name }) => name).join(", ")} cannot be used here`,
        {
          hint: broken[0]!.hint ?? "See the lines above.",
          details: { ...diagnosis },
        },
      );
    return diagnosis;
  },
});
