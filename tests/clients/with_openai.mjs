// OpenAI's own client for Node.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { BUNDLED_URL, TOOLS_URL, KEY } = process.env;
const bundled = new OpenAI({ baseURL: `${BUNDLED_URL}/v1`, apiKey: KEY, maxRetries: 0 });
const scripted = new OpenAI({ baseURL: `${TOOLS_URL}/v1`, apiKey: KEY, maxRetries: 0 });
const ask = { model: "x", messages: [{ role: "user", content: "What is AI?" }], max_tokens: 48 };
const said = [{ role: "user", content: "How is the weather in Beijing?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
let failed = 0;

async function check(what, block) {
  try {
    await block();
    console.log(`ok ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${what}: ${error}`);
  }
}

let text = "";
await check("chat, whole", async () => {
  text = (await bundled.chat.completions.create(ask)).choices[0].message.content;
  assert.match(text, /artificial intelligence/i);
});
await check("chat, streamed", async () => {
  let streamed = "";
  for await (const chunk of await bundled.chat.completions.create({ ...ask, stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(streamed, text);
});
await check("a stream that is aborted", async () => {
  const stream = await bundled.chat.completions.create({ ...ask, stream: true });
  for await (const _ of stream) stream.controller.abort();
});
await check("response_format json_schema", async () => {
  const schema = { type: "object", properties: { capital: { type: "boolean" } }, required: ["capital"] };
  const response_format = { type: "json_schema", json_schema: { name: "City", schema, strict: true } };
  const reply = await bundled.chat.completions.create({ ...ask, response_format });
  assert.equal(typeof JSON.parse(reply.choices[0].message.content).capital, "boolean");
});
await check("tools run by the client (runTools), whole and streamed", async () => {
  for (const stream of [false, true]) {
    const asked = [];
    const run = async (given) => { asked.push(given); return "21 degrees"; };
    const tool = { type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: run } };
    const runner = scripted.chat.completions.runTools({ model: "x", messages: said, tools: [tool], stream });
    assert.equal(await runner.finalContent(), "It is sunny.");
    assert.deepEqual(asked, [{ city: "Beijing" }]);
  }
});
const found = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", import.meta.url)));
console.log(`versions openai (npm) ${found.version}`);
process.exit(failed);
