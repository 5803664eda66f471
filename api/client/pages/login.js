"use strict";
const form = document.querySelector("form");
const message = document.querySelector("[role=alert]");
form.addEventListener("submit", async (event) => {
	event.preventDefault();
	message.textContent = "";
	// What may be said of a login beside the credentials comes in our own address.
	const body = Object.fromEntries(new URLSearchParams(location.search));
	for (const key of ["type", "identifier", "user", "password", "token"]) delete body[key];
	if ("refresh_token" in body) body.refresh_token = body.refresh_token === "true";
	body.type = "m.login.password";
	body.identifier = { type: "m.id.user", user: form.elements.user.value };
	body.password = form.elements.password.value;
	try {
		const answer = await fetch("/_matrix/client/v3/login", {
			method: "POST",
			headers: { "Content-Type": "application/json" },
			body: JSON.stringify(body),
		});
		const response = await answer.json();
		if (!answer.ok) {
			message.textContent = response.error || "Logging in was not possible.";
			return;
		}
		if (window.matrixLogin && window.matrixLogin.onLogin) {
			window.matrixLogin.onLogin(response);
			return;
		}
		message.textContent = "You are logged in.";
	} catch (error) {
		message.textContent = "The server cannot be reached.";
	}
});
