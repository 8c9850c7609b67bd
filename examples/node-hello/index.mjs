import ms from "ms";

/** Greets whoever calls, and says how long a second call may take to come: `{"name": "Ada", "within": "2 days"}`. */
export const handler = async (event, context) => {
  const { name = "world", within = "1 day" } = event.queryStringParameters ?? event;
  console.log("greeting", name);
  return { message: `Hello, ${name}!`, within_ms: ms(within), left_ms: context.getRemainingTimeInMillis() };
};
