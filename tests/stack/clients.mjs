// The Vercel AI SDK against a gateway: node clients.mjs URL KEY MODEL prints what each call brought.
import { generateText, streamText } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [url, apiKey, model] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey });
const compatible = createOpenAICompatible({ name: "fleet", baseURL: `${url}/v1`, apiKey });
const how = { prompt: "Say something.", maxOutputTokens: 8, maxRetries: 0 };
const calls = {
  "ai chat": async () => (await generateText({ model: openai.chat(model), ...how })).usage.outputTokens,
  "ai chat stream": async () => {
    let pieces = 0;
    const result = streamText({ model: compatible(model), ...how });
    for await (const piece of result.textStream) pieces += piece.length > 0;
    return pieces;
  },
  "ai responses": async () => (await generateText({ model: openai.responses(model), ...how })).usage.outputTokens,
};
const brought = {};
for (const [name, call] of Object.entries(calls)) {
  try {
    brought[name] = await call();
  } catch (error) {
    brought[name] = `${error.name}: ${error.message}`;
  }
}
console.log(JSON.stringify(brought));
