// Sends one message with nodemailer: STARTTLS because it is offered, AUTH, pipelined RCPT. Prints the message as it was sent.
// Arguments: host port cafile user password kind id sender rawfile recipient…
const fs = require('fs');
const nodemailer = require('nodemailer');
const MailComposer = require('nodemailer/lib/mail-composer');

const [host, port, cafile, user, pass, kind, id, from, rawFile, ...to] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    host, port: Number(port), auth: { user, pass }, tls: { ca: fs.readFileSync(cafile), servername: 'localhost' },
});

async function compose() {
    if (kind !== 'html') return fs.readFileSync(rawFile);
    const mail = new MailComposer({
        from, to, subject: 'html by nodemailer', headers: { 'X-Case': id }, text: 'Hello there.', html: '<p>Hello</p>',
        attachments: [{ filename: 'a.bin', content: require('crypto').randomBytes(3000) }],
    });
    return mail.compile().build();
}

(async () => {
    const raw = await compose();
    await transport.sendMail({ envelope: { from, to, use8BitMime: kind === 'eight-bit' || kind === 'smtputf8' }, raw });
    transport.close();
    process.stdout.write(raw);
})().catch((error) => { console.error(error); process.exit(1); });
