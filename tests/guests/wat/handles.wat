;; A worker with a resource of its own, of which it makes more until the engine refuses. By hand, because the host's own
;; resources fill the host's table first.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (type $own (resource (rep i32)))
  (core func $make (canon resource.new $own))

  (core module $guest
    (import "own" "make" (func $make (param i32) (result i32)))
    (func (export "handle") (param i32 i32)
      (loop $again
        (drop (call $make (i32.const 1)))
        (br $again))))
  (core instance $instance (instantiate $guest
    (with "own" (instance (export "make" (func $make))))))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $instance "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
