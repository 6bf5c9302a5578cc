// A small API: takes numbers as JSON, gives figures about them, and answers mistakes with problem+json (RFC 9457).
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  if (pathname === "/") return Response.json({ figures: "POST /figures with a list of numbers" });
  if (pathname !== "/figures") return problem(404, "nothing is here");
  if (request.method !== "POST") return problem(405, "figures are asked for with POST", { allow: "POST" });
  try {
    return Response.json(figures(await request.json()));
  } catch (mistake) {
    return problem(400, mistake.message);
  }
}

function figures(numbers) {
  if (!Array.isArray(numbers) || numbers.length === 0 || !numbers.every(Number.isFinite)) {
    throw new TypeError("the body must be a list of numbers, such as [1, 2, 3]");
  }
  const sum = numbers.reduce((sum, number) => sum + number, 0);
  return { count: numbers.length, sum, mean: sum / numbers.length, least: Math.min(...numbers), most: Math.max(...numbers) };
}

function problem(status, detail, headers = {}) {
  const body = JSON.stringify({ status, detail });
  return new Response(body, { status, headers: { "content-type": "application/problem+json", ...headers } });
}
