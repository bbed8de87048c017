// Runs named checks one after the other, says how each went, and ends the process.
export async function run(checks) {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`clients: ${name}: ok`);
    } catch (error) {
      failed += 1;
      console.log(`clients: ${name}: FAILED\n${error.stack}`);
    }
  }
  process.exit(failed > 0 ? 1 : 0);
}
