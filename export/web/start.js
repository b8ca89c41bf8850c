"use strict";
// Begin: the program of the page is `THIS_PAGE`.

async function start() {
  const problem = obstacle();
  const app = new THIS_PAGE(JSON.parse(byId("info").textContent));
  if (problem) return app.fail(problem);
  try {
    return await app.load();
  } catch (error) {
    return app.fail(`The student could not be loaded: ${error.message ?? error}.`);
  }
}

start();
