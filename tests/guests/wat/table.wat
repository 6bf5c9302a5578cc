;; A worker whose table grows until the host refuses; then it traps. By hand, because Rust has no word for table.grow.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))

  (core module $guest
    (table $table 1 funcref)
    (func $grow_table (export "handle") (param i32 i32)
      (loop $again
        (br_if $again (i32.ne (i32.const -1) (table.grow $table (ref.null func) (i32.const 1000)))))
      (unreachable)))
  (core instance $instance (instantiate $guest))

  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $instance "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
