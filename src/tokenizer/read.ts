import { QdlError } from "../errors.ts";
import type { Folder } from "../formats/folder.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";

/** The tokenizer of a model's folder. Throws TOKENIZER_INVALID (also if tokenizer.json is missing) and TEMPLATE_FAILED. */
export async function readTokenizer(folder: Pick<Folder, "path" | "exists" | "read">): Promise<Tokenizer> {
  const text = async (name: string) =>
    (await folder.exists(name)) ? new TextDecoder().decode(await folder.read(name)) : undefined;
  const json = async (name: string) => parse(await text(name), `${folder.path}/${name}`);
  const tokenizerJson = await json("tokenizer.json");
  if (tokenizerJson === undefined) {
    throw new QdlError(
      "TOKENIZER_INVALID",
      `${folder.path}: tokenizer.json is missing, expected one beside the weights`,
      {
        hint: "Download it with the model, or convert tokenizer.model with transformers' convert_slow_tokenizer.",
        details: { folder: folder.path },
      },
    );
  }
  return loadTokenizer({
    tokenizerJson,
    tokenizerConfig: await json("tokenizer_config.json"),
    generationConfig: await json("generation_config.json"),
    chatTemplateFile: await text("chat_template.jinja"),
  });
}

function parse(text: string | undefined, file: string): unknown {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new QdlError("TOKENIZER_INVALID", `${file}: is not JSON: ${reason}`, {
      hint: "Download the file again.",
      details: { file },
      cause,
    });
  }
}
