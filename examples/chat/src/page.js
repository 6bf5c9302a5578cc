'use strict';

const $ = (id) => document.getElementById(id);
const room = decodeURIComponent(location.pathname.split('/')[1]);
$('room').textContent = document.title = `# ${room}`;
$('name').value = localStorage.getItem('name') || `guest-${Math.floor(Math.random() * 1000)}`;

/** The number of the last message, and what was sent and has none yet. */
let last = 0;
const unsent = new Map();
let socket, pause = 250;

function connect() {
  const url = new URL('socket', location.href.replace(/^http/, 'ws'));
  url.searchParams.set('from', $('name').value);
  url.searchParams.set('after', last);
  socket = new WebSocket(url);
  socket.onopen = () => {
    pause = 250;
    for (const said of unsent.values()) socket.send(said);
  };
  socket.onmessage = (event) => {
    const told = JSON.parse(event.data);
    if ('here' in told) $('state').textContent = told.here === 1 ? 'nobody else is here' : `${told.here} are here`;
    else show(told);
  };
  socket.onclose = (event) => {
    // Asked for, by a new name.
    if (event.code === 1000) return connect();
    $('state').textContent = 'not connected, trying again …';
    setTimeout(connect, pause);
    pause = Math.min(pause * 2, 8000);
  };
}

function show({ number, id, from, text }) {
  unsent.delete(id);
  if (number <= last) return;
  last = number;
  const line = $(`message-${id}`) || addLine(id);
  line.className = '';
  line.replaceChildren(Object.assign(document.createElement('b'), { textContent: from }), text);
  $('messages').append(line);
  line.scrollIntoView({ block: 'nearest' });
}

function addLine(id) {
  return $('messages').appendChild(Object.assign(document.createElement('li'), { id: `message-${id}` }));
}

$('form').onsubmit = (event) => {
  event.preventDefault();
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
  const text = $('text').value;
  const said = JSON.stringify({ id, text });
  unsent.set(id, said);
  const line = addLine(id);
  line.className = 'unsent';
  line.textContent = text;
  line.scrollIntoView({ block: 'nearest' });
  if (socket.readyState === WebSocket.OPEN) socket.send(said);
  $('text').value = '';
};

$('name').onchange = () => {
  localStorage.setItem('name', $('name').value);
  socket.close(1000);
};

connect();
