// What both drivers share: commands come as lines of JSON on standard input, answers go as lines on standard output.
import { createInterface } from "node:readline";

const answer = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);

/** What the page itself and its pending rejections have to complain about. */
export async function problems(entry) {
  const rejections = await entry.page.evaluate("gangwayProbe.rejections").catch(() => []);
  return [...entry.problems, ...rejections.map((text) => ({ kind: "unhandled rejection", text }))];
}

/** Runs `commands` until standard input ends; each has its answer when it is done, so they may overtake each other. */
export async function serve(commands, version) {
  answer({ ready: version });
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, command, ...rest } = JSON.parse(line);
    commands[command](rest).then(
      (value) => answer({ id, value: value === undefined ? null : value }),
      (error) => answer({ id, error: String(error.message || error) }),
    );
  }
}
