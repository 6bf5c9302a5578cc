// A worker: each request gets a fresh instance of this program, and comes as a fetch event.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const url = new URL(request.url);
  switch (url.pathname) {
    case "/":
      return Response.json({ hello: url.searchParams.get("name") ?? "{{name}}" });
    case "/echo":
      return new Response(request.body);
    default:
      return Response.json({ error: "nothing is here" }, { status: 404 });
  }
}
